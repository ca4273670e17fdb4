import { Answer } from './answer.js';
import { load, newKey, save } from './conversation.js';
import { models, useKey } from './service.js';
import { assistantTurn, errorBox, pastTurn, userTurn } from './view.js';

/** Connects the form, the conversation and the controls. */

const $ = (id) => document.getElementById(id);
const conversation = $('conversation');
const welcome = $('welcome');
const question = $('question');
const status = $('status');

/** The conversation as the model receives it. */
let messages = [];
/** The running answer, or the last one. */
let answer;

const isRunning = () => answer !== undefined && answer.last === undefined;

function setStatus(text) {
  status.textContent = text;
}

function show(turn) {
  welcome.hidden = true;
  conversation.append(turn);
  conversation.scrollTop = conversation.scrollHeight;
}

function showError(error) {
  show(errorBox(error));
  if (error.status === 401) {
    $('key-form').hidden = false;
    $('key').focus();
  }
  setStatus('The request failed.');
}

/**
 * Asks the last question, or reads its answer if the service has started it. The question is kept until its answer has
 * ended, so that a reload goes on.
 */
function follow(asked) {
  const own = new Answer(asked);
  answer?.close();
  answer = own;
  save(asked);
  let isShown = false;
  const showOnce = () => {
    if (own.url === undefined || isShown) return;
    isShown = true;
    save({ ...asked, url: own.url });
    show(assistantTurn(own));
  };
  showOnce();
  setStatus('Waiting for the model.');
  own.addEventListener('change', () => {
    if (own !== answer) return; // A new conversation has begun.
    showOnce();
    if (isShown) onChange(own);
    else if (own.last) onRefusal(own.last);
  });
  drawTools();
}

/** Gives the question back: its answer has not started. */
function onRefusal(error) {
  const { content } = messages.pop();
  save({ messages });
  drawTools();
  if (error.finishReason === 'stopped') setStatus('Stopped.');
  else showError(error);
  question.value = content;
}

function onChange(own) {
  const isAtEnd = conversation.scrollHeight - conversation.scrollTop - conversation.clientHeight < 80;
  drawTools();
  // Runs after the view has drawn this frame.
  if (isAtEnd) requestAnimationFrame(() => (conversation.scrollTop = conversation.scrollHeight));
  if (own.last === undefined) return;
  const { type, answer: text, finishReason } = own.last;
  if (type === 'end') messages.push({ role: 'assistant', content: text || '(no text)' });
  // A failed answer stays one to read again: a browser that leaves the page reports a failure, too.
  if (type === 'end') save({ messages });
  // Screen readers hear this once, not token by token.
  if (type === 'error') setStatus('The answer failed.');
  else setStatus(finishReason === 'stopped' ? 'Stopped.' : 'The answer is complete.');
  if (matchMedia('(hover: hover)').matches) question.focus();
}

function drawTools() {
  const running = isRunning();
  $('send').hidden = running;
  $('stop').hidden = !running;
  $('plug').disabled = !running || answer.isDisconnected;
  $('plug').textContent = answer?.isDisconnected && running ? 'Disconnected …' : 'Cut connection';
  if (answer?.isDisconnected && running)
    setStatus('Disconnected. The answer continues on the service; the page resumes it.');
  else if (running && answer.firstMs) setStatus('The answer is arriving.');
  const tab = $('tab');
  tab.setAttribute('aria-disabled', String(answer === undefined));
  if (answer) tab.href = `#${answer.url}`;
  const about = answer?.isCounted ? '' : '≈ ';
  $('first').textContent = answer?.firstMs ? `${Math.round(answer.firstMs)} ms` : '–';
  $('rate').textContent = answer?.tokensPerSecond ? about + answer.tokensPerSecond.toFixed(1) : '–';
  $('count').textContent = answer?.tokens ? about + answer.tokens : '–';
  $('cost').textContent = answer?.cost === undefined ? '–' : `$${answer.cost.toFixed(6)}`;
}

function send(text) {
  if (isRunning() || text.trim() === '') return;
  question.value = '';
  messages.push({ role: 'user', content: text });
  show(userTurn(text));
  follow({ messages, model: $('model').value, key: newKey() });
}

/** Shows the conversation of before the reload, and goes on with its last answer. */
function restore(saved) {
  messages = saved.messages;
  for (const { role, content } of messages) show(role === 'user' ? userTurn(content) : pastTurn(content));
  if (saved.url || saved.key) follow(saved);
}

async function listModels() {
  try {
    const names = await models();
    $('model').replaceChildren(...names.map((name) => new Option(name)));
    $('key-form').hidden = true;
    setStatus('');
  } catch (error) {
    showError(error);
  }
}

$('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  send(question.value);
});
question.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send(question.value);
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && isRunning()) answer.stop();
});
$('stop').addEventListener('click', () => answer.stop());
$('plug').addEventListener('click', () => answer.disconnect());
$('examples').addEventListener('click', ({ target }) => {
  if (target.matches('.example')) send(target.textContent);
});
$('new').addEventListener('click', () => {
  const old = answer;
  answer = undefined;
  old?.close();
  messages = [];
  save({ messages });
  for (const turn of [...conversation.children]) if (turn !== welcome) turn.remove();
  welcome.hidden = false;
  drawTools();
  setStatus('');
  question.focus();
});
$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  useKey($('key').value.trim());
  $('key').value = '';
  for (const box of conversation.querySelectorAll('.fault')) box.remove();
  welcome.hidden = conversation.children.length > 1;
  void listModels();
});

void listModels();
// A second tab gets the URL of the stream, with its ticket, behind the #, which is not sent to a server.
const shared = location.hash.slice(1);
if (/^(\/[\w.~-]+)*\/streams\/[\w-]+(\?ticket=[\w.-]+)?$/.test(shared)) {
  history.replaceState(null, '', location.pathname);
  follow({ messages, url: shared });
} else {
  const saved = load();
  if (saved) restore(saved);
}
