import { createHash } from 'node:crypto';
import { type Redis, ReplyError } from 'ioredis';

/** A script is sent by its hash, and whole where Redis does not know it yet. */

export interface Script {
  readonly text: string;
  readonly sha1: string;
}

export function defineScript(text: string): Script {
  return { text, sha1: createHash('sha1').update(text).digest('hex') };
}

export async function runScript(redis: Redis, { text, sha1 }: Script, keys: string[], args: (string | number)[]) {
  try {
    return await redis.evalsha(sha1, keys.length, ...keys, ...args);
  } catch (error) {
    if (!(error instanceof ReplyError && (error as Error).message.startsWith('NOSCRIPT'))) throw error;
    return redis.eval(text, keys.length, ...keys, ...args);
  }
}
