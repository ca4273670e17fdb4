/** What replicas tell one another about streams. */

/** To the producer: who reads here, and how far; said every second, and 0 readers once. */
export type Follow = readonly (readonly [id: string, readers: number, position: number])[];

/** To a replica that follows: these logs have grown. */
export type News = readonly string[];

/** To the producer: end this now. */
export type Stop = string;

/** To a replica that follows: this log is not written here any more. */
export type Gone = string;

export const FOLLOW = 'follow';
export const NEWS = 'news';
export const GONE = 'gone';
export const STOP = 'stop';
