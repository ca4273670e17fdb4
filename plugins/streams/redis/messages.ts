/** Messages between replicas about streams. */

/**
 * Reports to a producer how many readers a replica has and the position they have reached. Sent for the
 * first reader, every second, when the copy has grown by half the high-water mark, after a reconnect, and
 * once with 0 readers.
 */
export const FOLLOW = 'follow';
export type Follow = readonly (readonly [id: string, readers: number, position: number])[];

/** Tells a replica with readers that logs have grown or ended. */
export const NEWS = 'news';
export type News = readonly string[];

/** Tells a replica with readers that this process does not produce the log. */
export const GONE = 'gone';
export type Gone = string;

/** Tells a replica with readers that this process, which stops, has released a log: any replica may take it over. */
export const RELEASED = 'released';
export type Released = string;

/** Asks a producer whose lease is missing whether it is alive. It renews its lease and replies with `ALIVE`. */
export const LOOK = 'look';
export const ALIVE = 'alive';

/** Asks a producer to end the generation now. */
export const STOP = 'stop';
export type Stop = string;
