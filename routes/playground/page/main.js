import { Answer } from './answer.js';
import { ask, models, useKey } from './service.js';
import { assistantTurn, faultOf, userTurn } from './view.js';

/** Wires the page: what is typed becomes a conversation. */

const $ = (id) => document.getElementById(id);
const conversation = $('conversation');
const welcome = $('welcome');
const question = $('question');
const status = $('status');

/** What the model is told of what was said before. */
let messages = [];
/** The answer that runs, or ran last. */
let answer;

const isRunning = () => answer !== undefined && answer.last === undefined;

function say(text) {
  status.textContent = text;
}

function show(turn) {
  welcome.hidden = true;
  conversation.append(turn);
  conversation.scrollTop = conversation.scrollHeight;
}

function fail(fault) {
  show(faultOf(fault));
  if (fault.status === 401) {
    $('key-form').hidden = false;
    $('key').focus();
  }
  say('It did not work.');
}

/** Follows a stream from its start. */
function follow(url) {
  answer?.close();
  answer = new Answer(url);
  const own = answer;
  show(assistantTurn(own));
  say('The model is asked.');
  own.addEventListener('change', () => onChange(own));
  drawTools();
}

function onChange(own) {
  const isAtEnd = conversation.scrollHeight - conversation.scrollTop - conversation.clientHeight < 80;
  if (own === answer) drawTools();
  // Behind the view's own drawing of this frame.
  if (isAtEnd) requestAnimationFrame(() => (conversation.scrollTop = conversation.scrollHeight));
  if (own.last === undefined) return;
  const { type, answer: text, finishReason } = own.last;
  if (type === 'end') messages.push({ role: 'assistant', content: text || '(no words)' });
  if (own !== answer) return;
  // Said once, not word by word.
  if (type === 'error') say('The answer broke off.');
  else say(finishReason === 'stopped' ? 'Stopped.' : 'The answer is complete.');
  if (matchMedia('(hover: hover)').matches) question.focus();
}

function drawTools() {
  const running = isRunning();
  $('send').hidden = running;
  $('stop').hidden = !running;
  $('plug').disabled = !running || answer.isCut;
  $('plug').textContent = answer?.isCut && running ? 'Unplugged …' : 'Pull the plug';
  if (answer?.isCut && running) say('Unplugged. The answer goes on without us; we come back for it.');
  else if (running && answer.firstMs) say('The answer arrives.');
  const tab = $('tab');
  tab.setAttribute('aria-disabled', String(answer === undefined));
  if (answer) tab.href = `#${answer.url}`;
  const about = answer?.isCounted ? '' : '≈ ';
  $('first').textContent = answer?.firstMs ? `${Math.round(answer.firstMs)} ms` : '–';
  $('rate').textContent = answer?.tokensPerSecond ? about + answer.tokensPerSecond.toFixed(1) : '–';
  $('count').textContent = answer?.tokens ? about + answer.tokens : '–';
}

async function send(text) {
  if (isRunning() || text.trim() === '') return;
  question.value = '';
  messages.push({ role: 'user', content: text });
  show(userTurn(text));
  try {
    follow(await ask(messages, $('model').value));
  } catch (fault) {
    messages.pop();
    question.value = text;
    fail(fault);
  }
}

async function listModels() {
  try {
    const names = await models();
    $('model').replaceChildren(...names.map((name) => new Option(name)));
    $('key-form').hidden = true;
    say('');
  } catch (fault) {
    fail(fault);
  }
}

$('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  void send(question.value);
});
question.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  void send(question.value);
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && isRunning()) void answer.stop();
});
$('stop').addEventListener('click', () => void answer.stop());
$('plug').addEventListener('click', () => answer.pullPlug());
$('examples').addEventListener('click', ({ target }) => {
  if (target.matches('.example')) void send(target.textContent);
});
$('new').addEventListener('click', () => {
  answer?.close();
  answer = undefined;
  messages = [];
  for (const turn of [...conversation.children]) if (turn !== welcome) turn.remove();
  welcome.hidden = false;
  drawTools();
  say('');
  question.focus();
});
$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  useKey($('key').value.trim());
  $('key').value = '';
  for (const fault of conversation.querySelectorAll('.fault')) fault.remove();
  welcome.hidden = conversation.children.length > 1;
  void listModels();
});

void listModels();
// A second tab: the stream's URL, with its ticket, stands behind the #, which no server sees.
const shared = location.hash.slice(1);
if (/^(\/[\w.~-]+)*\/streams\/[\w-]+(\?ticket=[\w.-]+)?$/.test(shared)) {
  history.replaceState(null, '', location.pathname);
  follow(shared);
}
