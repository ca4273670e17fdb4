import { EventEmitter } from 'node:events';

/** Lets promises and immediates run. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 4; i++) await new Promise(setImmediate);
}

/** A client of Redis whose replies the test decides. */
export class FakeRedis extends EventEmitter {
  status = 'wait';
  /** If false, no command is answered. */
  answers = true;
  pings = 0;
  subscribes = 0;
  disconnects: unknown[] = [];
  connects = 0;
  async connect() {
    this.connects += 1;
  }
  ping() {
    this.pings += 1;
    return this.#reply('PONG');
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
  #reply(value: unknown) {
    return this.answers ? Promise.resolve(value) : new Promise<never>(() => {});
  }
}
