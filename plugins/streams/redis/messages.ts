/** Messages between replicas about streams. */

/** To a producer: how many readers a replica has, and how far they have read. Sent every second; 0 readers once. */
export const FOLLOW = 'follow';
export type Follow = readonly (readonly [id: string, readers: number, position: number])[];

/** To a replica with readers: these logs have grown or ended. */
export const NEWS = 'news';
export type News = readonly string[];

/** To a replica with readers: this process does not produce the log. */
export const GONE = 'gone';
export type Gone = string;

/** To a producer: end the generation now. */
export const STOP = 'stop';
export type Stop = string;
