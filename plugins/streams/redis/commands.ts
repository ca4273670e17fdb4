import { createHash } from 'node:crypto';
import { type Redis, ReplyError } from 'ioredis';
import type { ContentPart } from '../../../providers/types.ts';
import type { Cluster } from '../../redis/index.ts';
import { runScript } from '../../redis/script.ts';
import type { Idempotency, StreamInfo, Terminal } from '../types.ts';
import { decodeEntry, END_POSITION, type Entry, encodeParts, entryId } from './entries.ts';
import { CREATE, END, REQUEST_STOP, RESTORE, TAKE_OVER } from './scripts.ts';

/** Whose log it is now: a replica, and the number of producers that the log has had. */
export interface Producer {
  readonly replica: string;
  readonly epoch: number;
}

/** What a replica has won that takes a log over. */
export interface Takeover {
  /** Its number as the producer. */
  readonly epoch: number;
  /** Where the log ends. */
  readonly position: number;
  /** What was asked, where an answer may be gone on with. */
  readonly question: string | undefined;
}

export interface Meta extends Producer {
  readonly info: StreamInfo;
}

/** What a stream is called in Redis by. */
export interface StreamKeys {
  readonly info: StreamInfo;
  readonly idempotency?: Idempotency | undefined;
}

/**
 * The streams in Redis, call by call. Of each: a hash (`meta`), a Redis Stream (`log`), and strings
 * for its idempotency key and its conversation. All of them expire.
 *
 * Every call @throws RedisAway, or what Redis says.
 */
export class StreamCommands {
  readonly #shared: Cluster;
  readonly #ttlMs: number;
  readonly #longestMs: number;

  /** `longestMs`: for how long a log may be written; what its producer's death leaves behind goes then. */
  constructor(shared: Cluster, ttlMs: number, longestMs: number) {
    this.#shared = shared;
    this.#ttlMs = ttlMs;
    this.#longestMs = longestMs;
  }

  /** Undefined where it was created; else what the key stands for. */
  async create(
    { info, idempotency }: StreamKeys,
    question = '',
  ): Promise<{ id: string; fingerprint: string } | undefined> {
    const { replica } = this.#shared;
    const args = [info.id, JSON.stringify(info), replica, this.#longestMs + this.#ttlMs];
    const found = await this.#ask((redis) =>
      runScript(redis, CREATE, this.#keys({ info, idempotency }), [
        ...args,
        idempotency?.fingerprint ?? '',
        this.#shared.key('meta', ''),
        question,
      ]),
    );
    if (found === null) return undefined;
    const [id, fingerprint] = found as [string, string];
    return { id, fingerprint };
  }

  /** As if it had never been. */
  async drop(names: StreamKeys): Promise<void> {
    await this.#ask((redis) => redis.del(this.#keys(names).filter((key) => key !== '')));
  }

  /** False where the log is gone. @throws where another has taken it over */
  async append(id: string, epoch: number, position: number, parts: readonly ContentPart[]): Promise<boolean> {
    const fields = encodeParts(parts);
    const log = this.#log(id);
    return (await this.#ask((redis) => redis.xadd(log, 'NOMKSTREAM', entryId(epoch, position), ...fields))) !== null;
  }

  /** As `append`. */
  async end(names: StreamKeys, epoch: number, length: number, terminal: Terminal): Promise<boolean> {
    const args = [names.info.id, entryId(epoch, END_POSITION), JSON.stringify(terminal), this.#ttlMs, length];
    return (await this.#ask((redis) => runScript(redis, END, this.#keys(names), args))) !== null;
  }

  /** How far Redis has the log, `LAST` where it has its end; undefined where another has taken it over. */
  async restore({ info, idempotency }: StreamKeys, epoch: number): Promise<number | undefined> {
    const args = [info.id, JSON.stringify(info), this.#shared.replica, this.#longestMs + this.#ttlMs];
    // As text: a large number does not survive Lua.
    const found = await this.#ask((redis) =>
      runScript(redis, RESTORE, this.#keys({ info, idempotency }), [...args, idempotency?.fingerprint ?? '', epoch]),
    );
    const position = Number(found);
    return position < 0 ? undefined : position;
  }

  /** Undefined where the old producer lives, or another was first. */
  async takeOver(id: string, { replica, epoch }: Producer): Promise<Takeover | undefined> {
    const keys = [this.#meta(id), this.#log(id), this.#shared.leaseKey(replica)];
    const won = await this.#ask((redis) => runScript(redis, TAKE_OVER, keys, [this.#shared.replica, replica, epoch]));
    if (won === null) return undefined;
    const [own, position, question] = won as [number, string, string | null];
    return { epoch: own, position: Number(position), question: question ?? undefined };
  }

  async isAlive(replica: string): Promise<boolean> {
    return (await this.#ask((redis) => redis.exists(this.#shared.leaseKey(replica)))) === 1;
  }

  async meta(id: string): Promise<Meta | undefined> {
    const [info, replica, epoch] = await this.#ask((redis) => redis.hmget(this.#meta(id), 'info', 'producer', 'epoch'));
    if (!info || !replica || !epoch) return undefined;
    return { info: JSON.parse(info) as StreamInfo, replica, epoch: Number(epoch) };
  }

  async byKey({ key }: Idempotency): Promise<{ id: string; fingerprint: string } | undefined> {
    const found = await this.#ask((redis) => redis.get(this.#named('key', key)));
    const [id, fingerprint] = found?.split(' ') ?? [];
    return id === undefined || fingerprint === undefined ? undefined : { id, fingerprint };
  }

  async byChat(chat: string): Promise<string | undefined> {
    return (await this.#ask((redis) => redis.get(this.#named('chat', chat)))) ?? undefined;
  }

  /** Entries behind one, at most so many. */
  async after(id: string, lastEntry: string, count: number): Promise<Entry[]> {
    const found = await this.#ask((redis) => redis.xrange(this.#log(id), `(${lastEntry}`, '+', 'COUNT', count));
    return found.map(decodeEntry);
  }

  /** For its producer to find when it can be told no other way. */
  async requestStop(id: string): Promise<void> {
    await this.#ask((redis) => runScript(redis, REQUEST_STOP, [this.#meta(id)], []));
  }

  async isStopRequested(id: string): Promise<boolean> {
    return (await this.#ask((redis) => redis.hget(this.#meta(id), 'stop'))) !== null;
  }

  #ask<T>(call: (redis: Redis) => Promise<T>): Promise<T> {
    return this.#shared.connection.run(call);
  }

  #keys({ info, idempotency }: StreamKeys): string[] {
    return [
      this.#meta(info.id),
      this.#log(info.id),
      idempotency ? this.#named('key', idempotency.key) : '',
      info.chat === undefined ? '' : this.#named('chat', info.chat),
    ];
  }

  #meta(id: string): string {
    return this.#shared.key('meta', id);
  }

  #log(id: string): string {
    return this.#shared.key('log', id);
  }

  /** What clients make up may be long, and may hold a name. */
  #named(kind: string, name: string): string {
    return this.#shared.key(kind, createHash('sha256').update(name).digest('base64url'));
  }
}

/** Redis refuses an entry below its last: a producer with a higher number may have begun. */
export function isStaleProducerError(error: unknown): boolean {
  return error instanceof ReplyError && /equal or smaller/.test((error as Error).message);
}
