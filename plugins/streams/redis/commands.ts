import { type Redis, ReplyError } from 'ioredis';
import type { Cluster } from '../../redis/index.ts';
import { loadScript, runScript } from '../../redis/script.ts';
import { isRepeatable } from '../terminals.ts';
import type { AnswerArchive, KeyLookup, StreamInfo, Terminal } from '../types.ts';
import type { MergedPart } from '../units.ts';
import { decodeEntry, END_POSITION, encodeParts, entryId, type LogEntry } from './entries.ts';
import { archiveKeysOf, hashedKey, keysOf, logKey, metaKey, type StreamKeys } from './keys.ts';

export type { StreamKeys };

/** The producer of a log. */
export interface Producer {
  readonly replica: string;
  /** Number of producers that the log has had; rises with each takeover. */
  readonly epoch: number;
}

/** Result of taking a log over. */
export interface Takeover {
  /** Epoch of the new producer. */
  readonly epoch: number;
  /** End of the log. */
  readonly position: number;
  /** The prompt as JSON, if the answer may be continued. */
  readonly serializedPrompt: string | undefined;
  /** True if a client has asked to end the answer. */
  readonly isStopRequested: boolean;
}

export interface Meta extends Producer {
  readonly info: StreamInfo;
}

export interface StreamCommandsOptions {
  readonly cluster: Cluster;
  /** Milliseconds for which an ended stream stays readable. */
  readonly ttlMs: number;
  /** Longest time in milliseconds for which a log may be written. Logs of dead producers expire then. */
  maxLogMs(): number;
  /** Says how long the logs of stored streams are kept, and what announces their end. */
  readonly archive?: AnswerArchive | undefined;
}

const script = (name: string) => loadScript(new URL(`./scripts/${name}.lua`, import.meta.url));
const CREATE = script('create');
const END = script('end');
const RESTORE = script('restore');
const TAKE_OVER = script('take-over');
const RELEASE = script('release');
const REQUEST_STOP = script('request-stop');

/**
 * The commands for streams in Redis. A stream has a hash (`meta`), a Redis Stream (`log`), and strings for
 * its idempotency key and its conversation. All of them expire.
 *
 * Every method throws `RedisUnavailable`, or the error reply of Redis.
 */
export class StreamCommands {
  readonly #cluster: Cluster;
  readonly #ttlMs: number;
  readonly #maxLogMs: () => number;
  readonly #archive: StreamCommandsOptions['archive'];

  constructor({ cluster, ttlMs, maxLogMs, archive }: StreamCommandsOptions) {
    this.#archive = archive;
    this.#cluster = cluster;
    this.#ttlMs = ttlMs;
    this.#maxLogMs = maxLogMs;
  }

  /** Creates a stream and returns undefined, or returns the stream of the idempotency key, unless it is repeatable. */
  async create(
    { info, idempotency }: StreamKeys,
    serializedPrompt = '',
  ): Promise<{ id: string; fingerprint: string } | undefined> {
    const keys = this.#keys({ info, idempotency });
    const args = [
      info.id,
      JSON.stringify(info),
      this.#cluster.replica,
      this.#activeTtlMs(),
      idempotency?.fingerprint ?? '',
      serializedPrompt,
    ];
    // The meta key of an existing stream is known, and can be declared, only after its id was read.
    for (let known = info.id; ; ) {
      const scriptKeys = [...keys, this.#meta(known)];
      const found = await this.#run((redis) => runScript(redis, CREATE, scriptKeys, [...args, known]));
      if (found === null) return undefined;
      const [id, fingerprint] = found as [string, string];
      if (id === known) return { id, fingerprint };
      known = id;
    }
  }

  /** Deletes a stream that was created but will not be produced. */
  async deleteStream(keys: StreamKeys): Promise<void> {
    await this.#run((redis) => redis.del(this.#keys(keys)));
  }

  /**
   * Appends parts that end at `position`. Returns false if the log does not exist.
   * @throws a stale-producer error if another replica has taken the log over
   */
  async append(id: string, epoch: number, position: number, parts: readonly MergedPart[]): Promise<boolean> {
    const fields = encodeParts(parts);
    const log = this.#log(id);
    return (await this.#run((redis) => redis.xadd(log, 'NOMKSTREAM', entryId(epoch, position), ...fields))) !== null;
  }

  /** Appends the terminal, and announces it if the archive says so. Returns and throws as `append` does. */
  async end(keys: StreamKeys, epoch: number, length: number, terminal: Terminal): Promise<boolean> {
    const { info } = keys;
    const repeatable = isRepeatable(terminal, length) ? '1' : '';
    const archive = info.stored === undefined ? undefined : this.#archive;
    const announcement = archive?.announce(info, terminal);
    const scriptKeys = [...this.#keys(keys), ...archiveKeysOf(this.#cluster, info.id)];
    const args = [info.id, entryId(epoch, END_POSITION), JSON.stringify(terminal), this.#ttlMs, length, repeatable];
    args.push(archive?.ttlMs ?? '', announcement?.text ?? '', announcement?.ttlMs ?? '');
    const isWritten = (await this.#run((redis) => runScript(redis, END, scriptKeys, args))) !== null;
    if (isWritten && announcement !== undefined) archive?.onAnnounced(info);
    return isWritten;
  }

  /**
   * Returns the position up to which Redis has the log, or `END_POSITION` if it has the terminal. Creates
   * the log again if it is missing. Returns undefined if another replica is the producer.
   */
  async restore({ info, idempotency, replaced = '' }: StreamKeys, epoch: number): Promise<number | undefined> {
    const fingerprint = idempotency?.fingerprint ?? '';
    const ttlMs = this.#activeTtlMs();
    const args = [info.id, JSON.stringify(info), this.#cluster.replica, ttlMs, fingerprint, epoch, replaced];
    const found = await this.#run((redis) => runScript(redis, RESTORE, this.#keys({ info, idempotency }), args));
    const position = Number(found);
    return position < 0 ? undefined : position;
  }

  /**
   * Takes a log over. Returns undefined if its producer is alive and has not released it, another replica was first, or the log has
   * ended or is missing.
   */
  async takeOver(id: string, { replica, epoch }: Producer): Promise<Takeover | undefined> {
    const keys = [this.#meta(id), this.#log(id), this.#cluster.leaseKey(replica)];
    const args = [this.#cluster.replica, replica, epoch];
    const won = await this.#run((redis) => runScript(redis, TAKE_OVER, keys, args));
    if (won === null) return undefined;
    const [newEpoch, position, serializedPrompt, stop] = won as [number, string, string | null, string | null];
    return {
      epoch: newEpoch,
      position: Number(position),
      serializedPrompt: serializedPrompt ?? undefined,
      isStopRequested: stop !== null,
    };
  }

  /**
   * Marks a log that this replica stops to produce, so that another one takes it over although this one is alive.
   * Returns false if no other replica could continue its answer.
   */
  async release(id: string, epoch: number): Promise<boolean> {
    const args = [this.#cluster.replica, epoch];
    return (await this.#run((redis) => runScript(redis, RELEASE, [this.#meta(id)], args))) === 1;
  }

  async isAlive(replica: string): Promise<boolean> {
    return (await this.#query((redis) => redis.exists(this.#cluster.leaseKey(replica)))) === 1;
  }

  async meta(id: string): Promise<Meta | undefined> {
    const [info, replica, epoch] = await this.#query((redis) =>
      redis.hmget(this.#meta(id), 'info', 'producer', 'epoch'),
    );
    if (!info || !replica || !epoch) return undefined;
    return { info: JSON.parse(info) as StreamInfo, replica, epoch: Number(epoch) };
  }

  /** Returns the stream of an idempotency key, unless its question is given and may be asked again. */
  async byKey({ key, fingerprint }: KeyLookup): Promise<{ id: string; fingerprint: string } | undefined> {
    const text = await this.#query((redis) => redis.get(this.#hashedKey('key', key)));
    const [id, known] = text?.split(' ') ?? [];
    if (id === undefined || known === undefined) return undefined;
    const mayRepeat = known === fingerprint && (await this.#query((redis) => redis.hget(this.#meta(id), 'repeatable')));
    return mayRepeat ? undefined : { id, fingerprint: known };
  }

  async byChat(chat: string): Promise<string | undefined> {
    return (await this.#query((redis) => redis.get(this.#hashedKey('chat', chat)))) ?? undefined;
  }

  /** Returns the entries after `lastEntry`, at most `count`. */
  async entriesAfter(id: string, lastEntry: string, count: number): Promise<LogEntry[]> {
    const found = await this.#cluster.connection.read((redis) =>
      redis.xrange(this.#log(id), `(${lastEntry}`, '+', 'COUNT', count),
    );
    return found.map(decodeEntry);
  }

  /**
   * Stores a stop request, so that the producer finds it even if the message is lost. Returns the replica that
   * produces the log; undefined if the stream is missing.
   */
  async requestStop(id: string): Promise<string | undefined> {
    const found = await this.#run((redis) => runScript(redis, REQUEST_STOP, [this.#meta(id)], []));
    return (found as string | null) ?? undefined;
  }

  async isStopRequested(id: string): Promise<boolean> {
    return (await this.#query((redis) => redis.hget(this.#meta(id), 'stop'))) !== null;
  }

  /** Returns the time to live of a stream that is produced. */
  #activeTtlMs(): number {
    return this.#maxLogMs() + this.#ttlMs;
  }

  #run<T>(call: (redis: Redis) => Promise<T>): Promise<T> {
    return this.#cluster.connection.run(call);
  }

  #query<T>(call: (redis: Redis) => Promise<T>): Promise<T> {
    return this.#cluster.connection.query(call);
  }

  #keys(keys: StreamKeys): string[] {
    return keysOf(this.#cluster, keys);
  }

  #meta(id: string): string {
    return metaKey(this.#cluster, id);
  }

  #log(id: string): string {
    return logKey(this.#cluster, id);
  }

  #hashedKey(kind: string, name: string): string {
    return hashedKey(this.#cluster, kind, name);
  }
}

/** Returns true if Redis rejected an entry because its id is too low: a newer producer may have written. */
export function isStaleProducerError(error: unknown): boolean {
  return error instanceof ReplyError && /equal or smaller/.test((error as Error).message);
}
