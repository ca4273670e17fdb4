import { setTimeout as sleep } from 'node:timers/promises';
import { open, type Reading } from '../sse-client.ts';

/** Pause before a reconnect. Shorter than the delay that the service asks for, so that tests are quick. */
const RECONNECT_MS = 50;

/** A page that reads one stream as an EventSource does, and can move to another replica. */
export class Page {
  text = '';
  /** The `end` or `error` event; undefined until it arrives. */
  terminal: { type: string; code?: string; answer?: string; finishReason?: string } | undefined;
  /** Path of the stream; undefined before the first event. */
  path: string | undefined;
  /** As the last `start` or `status` event says. */
  resumable = true;
  /** Description of something that no page may receive; undefined if there is nothing. */
  fault: string | undefined;
  /** The replica that this page reads from; undefined while it reads nothing. */
  replica: number | undefined;
  #lastId: string | undefined;
  #position = -1;
  #reading: Reading | undefined;
  /** Grows when the page leaves, so that a response of before is no longer read. */
  #visit = 0;

  /** Reads from a replica. The first time, `url` asks the question; later the stream is resumed. */
  attach(replica: number, base: string, askPath: string): void {
    this.replica = replica;
    this.#visit += 1;
    void this.#read(this.#visit, base, askPath);
  }

  /** Cuts the connection. */
  leave(): void {
    this.replica = undefined;
    this.#visit += 1;
    this.#reading?.cut();
  }

  async #read(visit: number, base: string, askPath: string): Promise<void> {
    const isOver = () => visit !== this.#visit || this.terminal !== undefined;
    while (!isOver()) {
      const headers = this.#lastId === undefined ? {} : { 'last-event-id': this.#lastId };
      const reading = await open(base + (this.path ?? askPath), { headers }).catch(() => undefined);
      if (visit !== this.#visit) return reading?.cut();
      this.#reading = reading;
      if (reading === undefined) continue;
      const { statusCode } = reading.response;
      if (statusCode !== 200) {
        this.fault ??= `status ${statusCode} in place of an event stream`;
        return;
      }
      let handled = 0;
      const handle = () => {
        if (visit !== this.#visit) return;
        for (const event of reading.events.slice(handled)) this.#onEvent(event);
        handled = reading.events.length;
      };
      reading.response.on('data', handle);
      handle();
      await reading.ended;
      handle();
      if (!isOver()) await sleep(RECONNECT_MS);
    }
  }

  #onEvent({ id, json }: Reading['events'][number]): void {
    if (json?.type === undefined) return;
    if (this.terminal) this.fault ??= `${json.type} after the ${this.terminal.type}`;
    if (id) this.#lastId = id;
    if (json.resumable !== undefined) this.resumable = json.resumable;
    if (json.type === 'start') this.path ??= json.url;
    if (json.type === 'delta') {
      const position = Number(id.slice(id.lastIndexOf('.') + 1));
      if (position - json.content.length !== Math.max(0, this.#position)) {
        this.fault ??= `a delta of ${json.content.length} units ends at ${position}, after ${this.#position}`;
      }
      this.#position = position;
      this.text += json.content;
    }
    if (json.type === 'end' || json.type === 'error') this.terminal = json;
  }
}
