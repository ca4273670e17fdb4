import type { Cluster } from '../../redis/index.ts';

/**
 * Names in Redis of the replicas, and of the streams that each of them produces. A dead producer without readers is
 * noticed by nobody else.
 *
 * Every method throws `RedisUnavailable`, or the error reply of Redis.
 */
export class RunningCommands {
  readonly #cluster: Cluster;
  readonly #ttlMs: () => number;

  /** @param ttlMs longest time in milliseconds for which a stream may be produced */
  constructor(cluster: Cluster, ttlMs: () => number) {
    this.#cluster = cluster;
    this.#ttlMs = ttlMs;
  }

  /** Makes this replica known to the others. */
  async announce(): Promise<void> {
    const { connection, replica } = this.#cluster;
    await connection.run((redis) =>
      Promise.all([redis.hset(this.#replicas, replica, 1), redis.pexpire(this.#replicas, this.#ttlMs())]),
    );
  }

  /** Returns the other replicas that have announced themselves, dead ones included. */
  async others(): Promise<string[]> {
    const { connection, replica } = this.#cluster;
    const found = await connection.query((redis) => redis.hgetall(this.#replicas));
    return Object.keys(found).filter((name) => name !== replica);
  }

  /** Adds streams that this replica produces. */
  async add(ids: readonly string[]): Promise<void> {
    const { connection, replica } = this.#cluster;
    const key = this.#running(replica);
    const fields = Object.fromEntries(ids.map((id) => [id, 1]));
    await connection.run((redis) => Promise.all([redis.hset(key, fields), redis.pexpire(key, this.#ttlMs())]));
  }

  async remove(id: string): Promise<void> {
    const { connection, replica } = this.#cluster;
    await connection.run((redis) => redis.hdel(this.#running(replica), id));
  }

  /** Returns the streams that a replica produces, or has produced until its death. */
  async of(replica: string): Promise<string[]> {
    const { connection } = this.#cluster;
    return Object.keys(await connection.query((redis) => redis.hgetall(this.#running(replica))));
  }

  /** Forgets a replica and its streams. */
  async forget(replica: string): Promise<void> {
    const { connection } = this.#cluster;
    await connection.run((redis) =>
      Promise.all([redis.del(this.#running(replica)), redis.hdel(this.#replicas, replica)]),
    );
  }

  get #replicas(): string {
    return this.#cluster.key('replicas');
  }

  #running(replica: string): string {
    return this.#cluster.key('producing', replica);
  }
}
