import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Redis } from 'ioredis';
import { isReplyError } from './reply-error.ts';

/** A Lua script. Redis runs it by its hash and gets the whole text only if the hash is unknown. */
export interface Script {
  readonly text: string;
  readonly sha1: string;
}

/** Reads a `.lua` file. Call when a module is loaded, so that a missing file fails the start. */
export function loadScript(file: URL): Script {
  const text = readFileSync(file, 'utf8');
  return { text, sha1: createHash('sha1').update(text).digest('hex') };
}

export async function runScript(redis: Redis, { text, sha1 }: Script, keys: string[], args: (string | number)[]) {
  try {
    return await redis.evalsha(sha1, keys.length, ...keys, ...args);
  } catch (error) {
    if (!(isReplyError(error) && error.message.startsWith('NOSCRIPT'))) throw error;
    return redis.eval(text, keys.length, ...keys, ...args);
  }
}
