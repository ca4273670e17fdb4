import { addCodeButtons, copyButton } from './copy.js';
import { render } from './markdown.js';
import { hintFor } from './words.js';

/** Creates the elements of a conversation. */

function element(name, className, text = '') {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

export function userTurn(text) {
  return element('article', 'turn user', text);
}

/** Creates the turn of an answer that is complete. */
export function pastTurn(text) {
  const turn = element('article', 'turn assistant');
  turn.setAttribute('aria-busy', 'false');
  const made = element('div', 'text');
  render(made, text);
  turn.append(made);
  complete(turn, made, text);
  return turn;
}

/** Adds the buttons of a complete answer. */
function complete(turn, rendered, text) {
  addCodeButtons(rendered);
  if (text) turn.append(copyButton('Copy answer', () => text));
}

export function errorBox(error) {
  const made = element('div', 'fault');
  made.setAttribute('role', 'alert');
  made.append(element('strong', '', error.message), hintFor(error));
  return made;
}

/** Creates a turn that follows an answer. Draws at most once per animation frame. */
export function assistantTurn(answer) {
  const turn = element('article', 'turn assistant running');
  turn.setAttribute('aria-busy', 'true');
  const reasoning = element('details', 'reasoning');
  const thought = element('p');
  reasoning.append(element('summary', '', 'Reasoning'), thought);
  reasoning.hidden = true;
  const tools = element('div', 'tools-called');
  const text = element('div', 'text');
  turn.append(reasoning, tools, text);
  let isDue = false;

  const draw = () => {
    isDue = false;
    reasoning.hidden = answer.reasoning === '';
    thought.textContent = answer.reasoning;
    drawTools(tools, answer.tools);
    render(text, answer.text);
    turn.classList.toggle('cut', answer.isDisconnected);
    if (!answer.last) return;
    turn.classList.remove('running');
    turn.setAttribute('aria-busy', 'false');
    complete(turn, text, answer.text);
    if (answer.last.type === 'error') turn.append(errorBox(answer.last));
  };
  answer.addEventListener('change', () => {
    if (!isDue) requestAnimationFrame(draw);
    isDue = true;
  });
  return turn;
}

function drawTools(place, tools) {
  for (const [index, { name, arguments: args }] of tools) {
    let details = place.children[index];
    if (!details) {
      details = element('details', 'tool');
      details.append(element('summary'), element('pre'));
      place.append(details);
    }
    details.firstElementChild.textContent = `Calls ${name || 'a tool'}`;
    details.lastElementChild.textContent = args;
  }
}
