/** One answer, as it arrives: reads a stream, can be cut and goes on, and tells its view what to show. */

/** How long a pulled plug stays out, so that one can see it. */
const CUT_MS = 1_500;

export class Answer extends EventTarget {
  text = '';
  reasoning = '';
  /** By their index. */
  tools = new Map();
  /** `end` or `error`, once it has come. */
  last;
  isCut = false;
  #url;
  #source;
  #lastId;
  #askedAt = performance.now();
  #firstAt;
  #timer;

  /** @param {string} url as `POST /streams` gives it */
  constructor(url) {
    super();
    this.#url = url;
    this.#open();
  }

  get url() {
    return this.#url;
  }

  /** Milliseconds to the first token; undefined before it. */
  get firstMs() {
    return this.#firstAt && this.#firstAt - this.#askedAt;
  }

  /** Tokens so far: as the provider counted, else four characters are one. */
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

  /** Cuts the connection, as a tunnel does, and comes back with the last id: nothing is lost. */
  pullPlug() {
    if (this.last || this.isCut) return;
    this.isCut = true;
    this.#source.close();
    this.#tell();
    this.#timer = setTimeout(() => {
      this.isCut = false;
      this.#open();
      this.#tell();
    }, CUT_MS);
  }

  /** Ends the answer at the service; what has come stays. */
  async stop() {
    await fetch(this.#url, { method: 'DELETE' });
  }

  /** Leaves it alone. */
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
      this.#take(JSON.parse(data));
    };
    this.#source.onerror = () => {
      // A browser gives up for good on any status but 200.
      if (this.#source.readyState === EventSource.CLOSED && !this.last && !this.isCut) {
        this.#take({ type: 'error', code: 'not_found', message: 'This stream is not kept any more.' });
      }
    };
  }

  #take(event) {
    if (['delta', 'reasoning', 'tool_call'].includes(event.type)) this.#firstAt ??= performance.now();
    if (event.type === 'delta') this.text += event.content;
    else if (event.type === 'reasoning') this.reasoning += event.content;
    else if (event.type === 'tool_call') this.#takeTool(event);
    else if (event.type === 'end' || event.type === 'error') {
      this.last = event;
      this.endedAt = performance.now();
      this.#source.close();
    }
    this.#tell();
  }

  #takeTool({ index, name = '', arguments: text = '' }) {
    const tool = this.tools.get(index) ?? { name: '', arguments: '' };
    tool.name ||= name;
    tool.arguments += text;
    this.tools.set(index, tool);
  }

  #tell() {
    this.dispatchEvent(new Event('change'));
  }
}
