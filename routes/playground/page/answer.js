/** Reads the stream of one answer, survives a cut, and emits `change` for its view. */

/** Duration of a simulated cut, long enough to be seen. */
const CUT_MS = 1_500;

export class Answer extends EventTarget {
  text = '';
  reasoning = '';
  /** Tool calls by index. */
  tools = new Map();
  /** The terminal event, once it has arrived. */
  last;
  isDisconnected = false;
  #url;
  #source;
  #lastId;
  #startedAt = performance.now();
  #firstAt;
  #timer;

  /** @param {string} url as returned by `POST /streams` */
  constructor(url) {
    super();
    this.#url = url;
    this.#open();
  }

  get url() {
    return this.#url;
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

  get tokensPerSecond() {
    const seconds = ((this.endedAt ?? performance.now()) - (this.#firstAt ?? performance.now())) / 1_000;
    return seconds > 0.2 ? this.tokens / seconds : undefined;
  }

  /** Cuts the connection and resumes with the last event id after a while. */
  disconnect() {
    if (this.last || this.isDisconnected) return;
    this.isDisconnected = true;
    this.#source.close();
    this.#emitChange();
    this.#timer = setTimeout(() => {
      this.isDisconnected = false;
      this.#open();
      this.#emitChange();
    }, CUT_MS);
  }

  /** Stops the answer at the service. The received text stays. */
  async stop() {
    await fetch(this.#url, { method: 'DELETE' });
  }

  /** Stops reading. The answer itself continues for the grace time. */
  close() {
    clearTimeout(this.#timer);
    this.#source.close();
  }

  #open() {
    const url = new URL(this.#url, location.href);
    if (this.#lastId) url.searchParams.set('lastEventId', this.#lastId);
    this.#source = new EventSource(url);
    this.#source.onmessage = ({ data, lastEventId }) => {
      this.#lastId = lastEventId || this.#lastId;
      this.#handle(JSON.parse(data));
    };
    this.#source.onerror = () => {
      // A browser gives up for good on any status but 200.
      if (this.#source.readyState === EventSource.CLOSED && !this.last && !this.isDisconnected) {
        this.#handle({ type: 'error', code: 'not_found', message: 'This stream does not exist or has expired.' });
      }
    };
  }

  #handle(event) {
    if (['delta', 'reasoning', 'tool_call'].includes(event.type)) this.#firstAt ??= performance.now();
    if (event.type === 'delta') this.text += event.content;
    else if (event.type === 'reasoning') this.reasoning += event.content;
    else if (event.type === 'tool_call') this.#addToolCall(event);
    else if (event.type === 'end' || event.type === 'error') {
      this.last = event;
      this.endedAt = performance.now();
      this.#source.close();
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
