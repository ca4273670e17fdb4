import { ask, read } from './client.js';
import { connection } from './service.js';

/** The running answer, or the last one, with everything that its view shows. Emits `change`. */

/** Duration of a simulated cut, long enough to be seen. */
const CUT_MS = 1_500;

export class Answer extends EventTarget {
  text = '';
  reasoning = '';
  /** Tool calls by index. */
  tools = new Map();
  /** The terminal event, once it has arrived. */
  last;
  /** URL that reads this answer, once the service has started it. */
  url;
  isDisconnected = false;
  #answer;
  #life = new AbortController();
  #connection = new AbortController();
  #reconnected = Promise.resolve();
  #startedAt = performance.now();
  #firstAt;

  /** @param {{ url?: string, messages?: object[], model?: string, key?: string }} asked a question, or the URL of its answer */
  constructor({ url, messages, model, key }) {
    super();
    const options = { ...connection(), signal: this.#life.signal, fetch: (...request) => this.#fetch(...request) };
    this.url = url;
    this.#answer = url ? read(url, options) : ask(messages, { ...options, key, ...(model && { model }) });
    this.#answer.addEventListener('change', ({ detail }) => this.#handle(detail));
  }

  /** Milliseconds until the first token; undefined before it. */
  get firstMs() {
    return this.#firstAt && this.#firstAt - this.#startedAt;
  }

  /** Tokens so far: the provider's count, or one for four characters. */
  get tokens() {
    return this.last?.usage?.outputTokens ?? Math.round((this.text.length + this.reasoning.length) / 4);
  }

  get isCounted() {
    return this.last?.usage?.outputTokens !== undefined;
  }

  /** US dollars; undefined if the price is not known, and before the end. */
  get cost() {
    return this.last?.usage?.cost;
  }

  get tokensPerSecond() {
    const seconds = ((this.endedAt ?? performance.now()) - (this.#firstAt ?? performance.now())) / 1_000;
    return seconds > 0.2 ? this.tokens / seconds : undefined;
  }

  /** Cuts the connection for a while. The client then resumes behind the last event. */
  disconnect() {
    if (this.last || this.isDisconnected) return;
    this.isDisconnected = true;
    this.#reconnected = new Promise((resolve) => {
      setTimeout(() => {
        this.isDisconnected = false;
        resolve();
        this.#emitChange();
      }, CUT_MS);
    });
    this.#connection.abort(new TypeError('The connection was cut.'));
    this.#emitChange();
  }

  /** Stops the answer at the service. The received text stays. */
  stop() {
    this.#answer.stop();
  }

  /** Stops reading. The answer itself continues for the grace time. */
  close() {
    this.#life.abort();
  }

  /** Sends a request of the client. A read waits while the connection is cut. */
  async #fetch(url, init) {
    if (!init.signal) return fetch(url, init);
    await this.#reconnected;
    this.#connection = new AbortController();
    return fetch(url, { ...init, signal: AbortSignal.any([init.signal, this.#connection.signal]) });
  }

  #handle(event) {
    if (['delta', 'reasoning', 'tool_call'].includes(event.type)) this.#firstAt ??= performance.now();
    this.text = this.#answer.text;
    if (event.type === 'start') this.url = this.#answer.url;
    else if (event.type === 'reasoning') this.reasoning += event.content;
    else if (event.type === 'tool_call') this.#addToolCall(event);
    else if (event.type === 'end' || event.type === 'error') {
      this.last = event;
      this.endedAt = performance.now();
    }
    this.#emitChange();
  }

  #addToolCall({ index, name = '', arguments: text = '' }) {
    const tool = this.tools.get(index) ?? { name: '', arguments: '' };
    tool.name ||= name;
    tool.arguments += text;
    this.tools.set(index, tool);
  }

  #emitChange() {
    this.dispatchEvent(new Event('change'));
  }
}
