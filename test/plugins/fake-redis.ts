import { EventEmitter } from 'node:events';
import { ReplyError } from 'ioredis';

/** Lets promises and immediates run. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 4; i++) await new Promise(setImmediate);
}

/** A client of Redis whose replies the test decides. */
export class FakeRedis extends EventEmitter {
  status = 'wait';
  /** If false, no command is answered. */
  answers = true;
  /** If set, every command is answered with this error. */
  refusal: string | undefined;
  /** Value that SET finds. */
  before: string | null = null;
  /** SETs and DELs until now. */
  readonly sent: unknown[][] = [];
  subscribes = 0;
  disconnects: unknown[] = [];
  connects = 0;
  async connect() {
    this.connects += 1;
  }
  set(...args: unknown[]) {
    this.sent.push(['set', ...args]);
    const { before } = this;
    if (this.answers && this.refusal === undefined) this.before = '1';
    return this.#reply(before);
  }
  del(...args: unknown[]) {
    this.sent.push(['del', ...args]);
    return this.#reply(1);
  }
  subscribe() {
    this.subscribes += 1;
    return this.#reply(1);
  }
  disconnect(isReconnecting?: boolean) {
    this.disconnects.push(isReconnecting);
    this.status = 'reconnecting';
    this.emit('close');
  }
  open() {
    this.status = 'ready';
    this.emit('ready');
  }
  #reply<T>(value: T): Promise<T> {
    if (!this.answers) return new Promise<never>(() => {});
    return this.refusal === undefined ? Promise.resolve(value) : Promise.reject(new ReplyError(this.refusal));
  }
}
