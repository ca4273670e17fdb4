/**
 * Keeps the conversation in this entry of the browser's history: a reload finds it, another page does not. While an
 * answer runs, it has the `key` of the question, its `model`, and the `url` of the answer once the service knows it.
 */

export function save(conversation) {
  history.replaceState({ conversation }, '');
}

export function load() {
  return history.state?.conversation;
}

/** Returns a key for a question. */
export function newKey() {
  return crypto.randomUUID?.() ?? String(Math.random());
}
