import { createHash } from 'node:crypto';
import type { ContentPart } from '../../providers/types.ts';
import type { Cluster } from '../redis/index.ts';
import { loadScript, runScript, type Script } from '../redis/script.ts';
import { RedisUnavailable } from '../redis/timeout.ts';
import { decodeEntry } from '../streams/redis/entries.ts';
import { logKey, metaKey, responseKey } from '../streams/redis/keys.ts';
import { appendMerged, partSize } from '../streams/units.ts';
import type { StoredAnswer } from './api.ts';
import { RunningInMemory } from './running.ts';
import { statusOf } from './status.ts';
import { type Found, questionBytes, type ResponseStore, type SavedQuestion, type StoreLimits } from './types.ts';
import { UnsavedQuestions } from './unsaved.ts';

export interface RedisResponsesOptions extends StoreLimits {
  readonly cluster: Pick<Cluster, 'connection' | 'lease' | 'key' | 'streamKey'>;
  /** Milliseconds for which the log of another stream is kept after its end. */
  readonly streamTtlMs: number;
}

const script = (name: string) => loadScript(new URL(`./scripts/${name}.lua`, import.meta.url));
const SAVE = script('save');
const REMOVE = script('remove');
const INDEX = script('index');
const FORGET = script('forget');

/** Version of a stored response. A newer one is not read. */
const FORMAT = 1;
/** Entries of a log that are read at once. Each has a few hundred bytes; the largest some ten thousand. */
const ENTRIES = 256;

/**
 * Responses that replicas share. The answer is the log of the stream, which the script that ends it keeps as long as the
 * response: so it is written by one replica, whole or not at all. Redis has a hash with the question for each response, and
 * for each owner an index that bounds their number.
 */
export class RedisResponses implements ResponseStore {
  readonly #options: RedisResponsesOptions;
  readonly #unsaved: UnsavedQuestions;
  readonly running: RunningInMemory;

  constructor(options: RedisResponsesOptions) {
    this.#options = options;
    this.#unsaved = new UnsavedQuestions({
      lease: options.cluster.lease,
      write: (id, question) => this.#write(id, question),
      onDropped: () => options.onEvicted(1),
    });
    this.running = new RunningInMemory({
      write: (id, question) => this.save(id, question),
      read: async (id) => (await this.#read(id))?.question,
    });
  }

  async save(id: string, question: SavedQuestion): Promise<void> {
    this.running.save(id, question);
    await this.#write(id, question).catch(() => this.#unsaved.add(id, question));
  }

  async find(id: string): Promise<Found | undefined> {
    const question = this.#unsaved.get(id);
    if (question !== undefined) return { question, readAnswer: async () => undefined };
    return (await this.#read(id)) ?? (await this.#findLost(id));
  }

  async delete(id: string, question: SavedQuestion): Promise<void> {
    await this.#remove(id, 'deleted');
    this.#unsaved.delete(id);
    this.running.delete(id);
    // An entry that stays in the index because of a crash expires, or is taken out as the oldest.
    await this.#run(FORGET, this.#indexKeys(question), [id, questionBytes(question)]);
  }

  close(): Promise<void> {
    return this.#unsaved.close();
  }

  /** Returns a response as Redis has it. @throws RedisUnavailable for one of a newer version */
  async #read(id: string): Promise<Found | undefined> {
    const { cluster } = this.#options;
    const key = responseKey(cluster, id);
    const [text, endedAt, format] = await cluster.connection.read(key, (redis) =>
      redis.hmget(key, 'question', 'endedAt', 'format'),
    );
    if (!text) return undefined;
    if (Number(format) > FORMAT) throw new RedisUnavailable('a newer version has stored this response');
    const readAnswer = async () => (endedAt ? this.#readAnswer(id, Number(endedAt)) : undefined);
    return { question: JSON.parse(text) as SavedQuestion, readAnswer };
  }

  /** Returns a response that this process answers and Redis has lost, until it is written again. */
  async #findLost(id: string): Promise<Found | undefined> {
    const question = this.running.get(id);
    if (question === undefined) return undefined;
    const { cluster } = this.#options;
    const key = metaKey(cluster, id);
    const removed = await cluster.connection.read(key, (redis) => redis.hget(key, 'removed'));
    return removed === null ? { question, readAnswer: async () => undefined } : undefined;
  }

  async #write(id: string, question: SavedQuestion): Promise<void> {
    const { cluster, ttlMs, maxLogMs, maxPerOwner, maxBytesPerOwner } = this.#options;
    const lifeMs = maxLogMs() + ttlMs;
    const keys = [responseKey(cluster, id), metaKey(cluster, id)];
    const isSaved = await this.#run(SAVE, keys, [JSON.stringify(question), lifeMs, ttlMs]);
    if (isSaved !== 1) return;
    // A response that is missing in the index because of a crash expires all the same.
    const args = [id, questionBytes(question), lifeMs, maxPerOwner, maxBytesPerOwner];
    const evicted = (await this.#run(INDEX, this.#indexKeys(question), args)) as string[];
    if (evicted.length > 0) this.#options.onEvicted(evicted.length);
    await Promise.all(evicted.map((one) => this.#remove(one, 'evicted')));
  }

  #indexKeys({ owner }: SavedQuestion): string[] {
    const { cluster } = this.#options;
    const hash = createHash('sha256').update(owner).digest('base64url');
    return [cluster.key('responses', `{${hash}}`), cluster.key('responses-bytes', `{${hash}}`)];
  }

  async #remove(id: string, reason: 'deleted' | 'evicted'): Promise<void> {
    const { cluster, streamTtlMs } = this.#options;
    const keys = [responseKey(cluster, id), metaKey(cluster, id), logKey(cluster, id)];
    await this.#run(REMOVE, keys, [reason, streamTtlMs]);
  }

  /** Returns the answer; undefined if its log is missing, or a node has lost a part of it. */
  async #readAnswer(id: string, endedAt: number): Promise<StoredAnswer | undefined> {
    const { cluster } = this.#options;
    const key = logKey(cluster, id);
    const parts: ContentPart[] = [];
    let length = 0;
    for (let last = '0-0'; ; ) {
      const found = await cluster.connection.read(key, (redis) => redis.xrange(key, `(${last}`, '+', 'COUNT', ENTRIES));
      for (const entry of found.map(decodeEntry)) {
        const { terminal } = entry;
        last = entry.id;
        const units = entry.parts.reduce((sum, { part }) => sum + partSize(part), 0);
        if (entry.position - units > length) return undefined;
        length = entry.position;
        for (const { part } of entry.parts) appendMerged(parts, part);
        if (terminal !== undefined) return { parts, terminal, endedAt, status: statusOf(terminal) };
      }
      if (found.length < ENTRIES) return undefined;
    }
  }

  #run(one: Script, keys: string[], args: (string | number)[]): Promise<unknown> {
    return this.#options.cluster.connection.run((redis) => runScript(redis, one, keys, args));
  }
}
