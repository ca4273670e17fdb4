import { createHash } from 'node:crypto';
import type { Cluster } from '../../redis/index.ts';
import { loadScript, runScript } from '../../redis/script.ts';
import { NewerFormat } from '../types.ts';
import type { StreamKeys } from './command-types.ts';

/** The stream of an idempotency key. */
export interface KeyHolder {
  readonly id: string;
  readonly fingerprint: string;
}

/** A stream has the idempotency key, but cannot be read now. Its question must not be answered a second time. */
export class HolderUnreadable extends Error {
  override readonly name = 'HolderUnreadable';

  constructor(cause: unknown) {
    super('the stream of this idempotency key cannot be read', { cause });
  }
}

const script = (name: string) => loadScript(new URL(`./scripts/${name}.lua`, import.meta.url));
const CLAIM = script('claim');
const UNLINK = script('unlink');

/**
 * Links to streams in Redis: by idempotency key, and by conversation. In a cluster they are on other nodes than their
 * streams, so a crash can leave a link without a stream, or a stream without a link. A reader of a link therefore reads
 * the stream before it believes the link.
 *
 * Every method throws `RedisUnavailable`, or the error reply of Redis.
 */
export class StreamLinks {
  readonly #cluster: Cluster;

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /**
   * Gives an idempotency key to a stream. Returns undefined, or the stream that has the key.
   * @param replaced id of a stream that loses the key, or ''
   * @throws NewerFormat if a newer version has stored the value of the key
   */
  async claim(key: string, { id, fingerprint }: KeyHolder, ttlMs: number, replaced: string) {
    const args = [id, fingerprint, ttlMs, replaced];
    const found = await this.#cluster.connection.run((redis) => runScript(redis, CLAIM, [this.#key(key)], args));
    return found === null ? undefined : parseHolder(found as string);
  }

  /** Returns the stream that has an idempotency key. @throws NewerFormat as `claim` does */
  async findHolder(key: string): Promise<KeyHolder | undefined> {
    const found = await this.#cluster.connection.query((redis) => redis.get(this.#key(key)));
    return found === null ? undefined : parseHolder(found);
  }

  /** Makes a stream the newest of its conversation. */
  async setChat(chat: string, id: string, ttlMs: number): Promise<void> {
    await this.#cluster.connection.run((redis) => redis.set(this.#chat(chat), id, 'PX', ttlMs));
  }

  /** Writes the links of a stream again that are missing. Those of other streams stay, unless it is the newest. */
  async restore(keys: StreamKeys, { ttlMs, isNewest }: { ttlMs: number; isNewest: boolean }): Promise<void> {
    const { info, idempotency, replaced = '' } = keys;
    const { id, chat } = info;
    if (idempotency) await this.claim(idempotency.key, { ...idempotency, id }, ttlMs, replaced);
    if (chat === undefined) return;
    if (isNewest) return this.setChat(chat, id, ttlMs);
    await this.#cluster.connection.run((redis) => redis.set(this.#chat(chat), id, 'PX', ttlMs, 'NX'));
  }

  /** Returns the newest stream of a conversation. */
  async newestOf(chat: string): Promise<string | undefined> {
    return (await this.#cluster.connection.query((redis) => redis.get(this.#chat(chat)))) ?? undefined;
  }

  /** Sets the time to live of an idempotency key that a stream has; 0 deletes it. */
  async unlinkKey(key: string, id: string, ttlMs: number): Promise<void> {
    await this.#cluster.connection.run((redis) => runScript(redis, UNLINK, [this.#key(key)], [id, ttlMs]));
  }

  /** Deletes a conversation whose newest stream this is. */
  async unlinkChat(chat: string, id: string): Promise<void> {
    await this.#cluster.connection.run((redis) => runScript(redis, UNLINK, [this.#chat(chat)], [id, 0]));
  }

  #key(key: string): string {
    return this.#cluster.key('key', hash(key));
  }

  #chat(chat: string): string {
    return this.#cluster.key('chat', hash(chat));
  }
}

/** Passes on what is read of the stream that has a key. @throws HolderUnreadable if the read fails, or NewerFormat */
export async function readHolder<T>(read: Promise<T>): Promise<T> {
  return read.catch((error: unknown) => {
    throw error instanceof NewerFormat ? error : new HolderUnreadable(error);
  });
}

/** Returns true if an error says that a stream has the key, which only cannot be read here and now. */
export function isKeyHeld(error: unknown): boolean {
  return error instanceof NewerFormat || error instanceof HolderUnreadable;
}

/** Hashes names that clients choose: they may be long and may identify a person. */
function hash(name: string): string {
  return createHash('sha256').update(name).digest('base64url');
}

function parseHolder(value: string): KeyHolder {
  const [, id, fingerprint] = /^(\S+) (\S+)$/.exec(value) ?? [];
  if (id === undefined || fingerprint === undefined) throw new NewerFormat('unknown');
  return { id, fingerprint };
}
