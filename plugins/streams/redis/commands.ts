import type { Redis } from 'ioredis';
import type { Cluster } from '../../redis/index.ts';
import { loadScript, runScript } from '../../redis/script.ts';
import { isRepeatable } from '../terminals.ts';
import { type Idempotency, type KeyLookup, NewerFormat, type StreamInfo, type Terminal } from '../types.ts';
import type { MergedPart } from '../units.ts';
import type { Meta, Producer, StreamCommandsOptions, StreamKeys, Takeover } from './command-types.ts';
import { decodeEntry, END_POSITION, encodeParts, entryId, type LogEntry } from './entries.ts';
import { FORMAT } from './format.ts';
import { archiveKeysOf, logKey, metaKey } from './keys.ts';
import { isKeyHeld, type KeyHolder, readHolder, StreamLinks } from './links.ts';

export type { Meta, Producer, StreamCommandsOptions, StreamKeys, Takeover } from './command-types.ts';

const script = (name: string) => loadScript(new URL(`./scripts/${name}.lua`, import.meta.url));
const CREATE = script('create');
const END = script('end');
const RESTORE = script('restore');
const TAKE_OVER = script('take-over');
const RELEASE = script('release');
const REQUEST_STOP = script('request-stop');

/**
 * The commands for streams in Redis. A stream has a hash (`meta`) and a Redis Stream (`log`), whose names share a hash
 * tag. Its idempotency key and its conversation are links in other slots. All of them expire.
 *
 * Every method throws `RedisUnavailable`, or the error reply of Redis.
 */
export class StreamCommands {
  readonly #cluster: Cluster;
  readonly #ttlMs: number;
  readonly #maxLogMs: () => number;
  readonly #archive: StreamCommandsOptions['archive'];
  readonly #format: number;
  readonly #links: StreamLinks;

  constructor({ cluster, ttlMs, maxLogMs, archive, format = FORMAT }: StreamCommandsOptions) {
    this.#archive = archive;
    this.#cluster = cluster;
    this.#ttlMs = ttlMs;
    this.#maxLogMs = maxLogMs;
    this.#format = format;
    this.#links = new StreamLinks(cluster);
  }

  /**
   * Creates a stream and returns undefined, or returns the stream of the idempotency key, unless it is repeatable.
   *
   * The log comes first. So a key never leads to a stream that is still to be created, and a crash in between leaves a
   * log that nobody has read, which expires. @throws NewerFormat or HolderUnreadable if another stream has the key
   */
  async create({ info, idempotency }: StreamKeys, serializedPrompt = ''): Promise<KeyHolder | undefined> {
    const { id, chat } = info;
    const ttlMs = this.#activeTtlMs();
    const args = [JSON.stringify(info), this.#cluster.replica, ttlMs, serializedPrompt, this.#format];
    await this.#run((redis) => runScript(redis, CREATE, this.#keys(id), args));
    const holder = idempotency && (await this.#claimOrDelete(id, idempotency, ttlMs));
    if (holder !== undefined) return holder;
    if (chat !== undefined) await this.#links.setChat(chat, id, ttlMs);
    return undefined;
  }

  /** Deletes a stream that was created but will not be produced. */
  async deleteStream({ info: { id, chat }, idempotency }: StreamKeys): Promise<void> {
    await this.#delete(id);
    if (idempotency !== undefined) await this.#links.unlinkKey(idempotency.key, id, 0);
    if (chat !== undefined) await this.#links.unlinkChat(chat, id);
  }

  /**
   * Appends parts that end at `position`. Returns false if the log does not exist.
   * @throws a stale-producer error if another replica has taken the log over
   */
  async append(id: string, epoch: number, position: number, parts: readonly MergedPart[]): Promise<boolean> {
    const fields = encodeParts(parts);
    const log = logKey(this.#cluster, id);
    return (await this.#run((redis) => redis.xadd(log, 'NOMKSTREAM', entryId(epoch, position), ...fields))) !== null;
  }

  /** Appends the terminal, and announces it if the archive says so. Returns and throws as `append` does. */
  async end({ info, idempotency }: StreamKeys, epoch: number, length: number, terminal: Terminal): Promise<boolean> {
    const { id, chat } = info;
    const repeatable = isRepeatable(terminal, length) ? '1' : '';
    const archive = info.stored === undefined ? undefined : this.#archive;
    const announcement = archive?.announce(info, terminal);
    const keys = [...this.#keys(id), ...archiveKeysOf(this.#cluster, id)];
    const args = [entryId(epoch, END_POSITION), JSON.stringify(terminal), this.#ttlMs, length, repeatable];
    args.push(archive?.ttlMs ?? '', announcement?.text ?? '', announcement?.ttlMs ?? '');
    const isWritten = (await this.#run((redis) => runScript(redis, END, keys, args))) !== null;
    if (isWritten && announcement !== undefined) archive?.onAnnounced(info);
    // Readers do not wait for the links. Without these commands they live for longer, and lead to an ended stream.
    if (isWritten && idempotency) this.#links.unlinkKey(idempotency.key, id, this.#ttlMs).catch(() => {});
    if (isWritten && chat !== undefined) this.#links.unlinkChat(chat, id).catch(() => {});
    return isWritten;
  }

  /**
   * Returns the position up to which Redis has the log, or `END_POSITION` if it has the terminal. Creates
   * the log and its links again if they are missing. Returns undefined if another replica is the producer.
   */
  async restore(keys: StreamKeys, epoch: number, isNewest = false): Promise<number | undefined> {
    const ttlMs = this.#activeTtlMs();
    const args = [JSON.stringify(keys.info), this.#cluster.replica, ttlMs, epoch, this.#format];
    const position = Number(await this.#run((redis) => runScript(redis, RESTORE, this.#keys(keys.info.id), args)));
    if (position < 0) return undefined;
    if (position === END_POSITION) return position;
    const links = this.#links.restore(keys, { ttlMs, isNewest });
    // If only a node with a link fails, the log goes on. The link is written after the next change of nodes.
    await (position > 0 ? links.catch(() => {}) : links);
    return position;
  }

  /**
   * Takes a log over. Returns undefined if its producer is alive and has not released it, another replica was first, or the log has
   * ended or is missing.
   */
  async takeOver(id: string, { replica, epoch }: Producer): Promise<Takeover | undefined> {
    const hasNoLease = replica !== this.#cluster.replica && !(await this.isAlive(replica));
    const args = [this.#cluster.replica, replica, epoch, hasNoLease ? '1' : '', this.#format];
    const won = await this.#run((redis) => runScript(redis, TAKE_OVER, this.#keys(id), args));
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
    return (await this.#run((redis) => runScript(redis, RELEASE, [metaKey(this.#cluster, id)], args))) === 1;
  }

  async isAlive(replica: string): Promise<boolean> {
    return (await this.#query((redis) => redis.exists(this.#cluster.leaseKey(replica)))) === 1;
  }

  /** @throws NewerFormat if a newer version has stored the stream */
  async meta(id: string): Promise<Meta | undefined> {
    const [info, replica, epoch, ended] = await this.#readMeta(id, 'info', 'producer', 'epoch', 'ended');
    if (!info || !replica || !epoch) return undefined;
    return { info: JSON.parse(info) as StreamInfo, replica, epoch: Number(epoch), hasEnded: Boolean(ended) };
  }

  /**
   * Returns the stream of an idempotency key, unless its question is given and may be asked again.
   * @throws NewerFormat if a newer version has the key or its stream; HolderUnreadable if its stream cannot be read
   */
  async byKey({ key, fingerprint }: KeyLookup): Promise<KeyHolder | undefined> {
    const holder = await this.#links.findHolder(key);
    if (holder === undefined) return undefined;
    if (holder.fingerprint !== fingerprint) return holder;
    const [mayRepeat] = await readHolder(this.#readMeta(holder.id, 'repeatable'));
    return mayRepeat ? undefined : holder;
  }

  /** Returns the newest stream of a conversation, which may have ended if its producer has crashed at its end. */
  async byChat(chat: string): Promise<string | undefined> {
    return this.#links.newestOf(chat);
  }

  /** Returns the entries after `lastEntry`, at most `count`. */
  async entriesAfter(id: string, lastEntry: string, count: number): Promise<LogEntry[]> {
    const key = logKey(this.#cluster, id);
    const found = await this.#cluster.connection.read(key, (redis) =>
      redis.xrange(key, `(${lastEntry}`, '+', 'COUNT', count),
    );
    return found.map(decodeEntry);
  }

  /**
   * Stores a stop request, so that the producer finds it even if the message is lost. Returns the replica that
   * produces the log; undefined if the stream is missing.
   */
  async requestStop(id: string): Promise<string | undefined> {
    const found = await this.#run((redis) => runScript(redis, REQUEST_STOP, [metaKey(this.#cluster, id)], []));
    return (found as string | null) ?? undefined;
  }

  async isStopRequested(id: string): Promise<boolean> {
    return (await this.#query((redis) => redis.hget(metaKey(this.#cluster, id), 'stop'))) !== null;
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

  /** Does what `#claim` does, and deletes the log if the stream does not get the key. */
  async #claimOrDelete(id: string, idempotency: Idempotency, ttlMs: number): Promise<KeyHolder | undefined> {
    // A log that cannot be deleted now expires.
    const discard = () => this.#delete(id).catch(() => {});
    try {
      const holder = await this.#claim(id, idempotency, ttlMs);
      if (holder !== undefined) await discard();
      return holder;
    } catch (error) {
      if (isKeyHeld(error)) await discard();
      throw error;
    }
  }

  /** Gives an idempotency key to a stream. Returns undefined, or the stream that keeps the key. */
  async #claim(id: string, { key, fingerprint }: Idempotency, ttlMs: number): Promise<KeyHolder | undefined> {
    for (let replaced = ''; ; ) {
      const holder = await this.#links.claim(key, { id, fingerprint }, ttlMs, replaced);
      // It is this stream if the reply to an earlier claim was lost.
      if (holder === undefined || holder.id === id) return undefined;
      const [producer, isRepeatable] = await readHolder(this.#readMeta(holder.id, 'producer', 'repeatable'));
      const mayRepeat = isRepeatable && holder.fingerprint === fingerprint;
      if (producer && !mayRepeat) return holder;
      replaced = holder.id;
    }
  }

  async #readMeta(id: string, ...fields: string[]): Promise<(string | null | undefined)[]> {
    const [format, ...values] = await this.#query((redis) =>
      redis.hmget(metaKey(this.#cluster, id), 'format', ...fields),
    );
    if (format && Number(format) > this.#format) throw new NewerFormat(format);
    return values;
  }

  async #delete(id: string): Promise<void> {
    await this.#run((redis) => redis.del(this.#keys(id)));
  }

  /** Returns the keys of a stream, which are in one slot. */
  #keys(id: string): string[] {
    return [metaKey(this.#cluster, id), logKey(this.#cluster, id)];
  }
}
