import { isReplyError } from './reply-error.ts';

/** Reasons why streams cannot be shared through Redis, as the log and the documentation name them. */

export interface Problem {
  /** A code word of Redis, of the network, or of this service. Never the text of an error, which may hold a secret. */
  readonly reason: string;
  /** Explains the reason, and what to do. */
  readonly hint: string;
  /** Rights that the user lacks. */
  readonly missing?: readonly string[];
}

const HINTS: Readonly<Record<string, string>> = {
  ASK: 'REDIS_URL names a node of a cluster; use redis+cluster://',
  BUSY: 'a script of another client blocks Redis',
  CLUSTERDOWN: 'slots of the cluster have no primary; wait for its failover, or repair it',
  CROSSSLOT: 'REDIS_URL names a node of a cluster; use redis+cluster://',
  EAI_AGAIN: 'the host name of REDIS_URL cannot be resolved now',
  ECONNREFUSED: 'nothing listens at the address of REDIS_URL',
  ECONNRESET: 'the connection to Redis was reset',
  EHOSTUNREACH: 'the host of REDIS_URL cannot be reached',
  ENOTFOUND: 'the host name of REDIS_URL is unknown',
  ETIMEDOUT: 'the host of REDIS_URL does not accept connections in time',
  LOADING: 'Redis loads its data; wait',
  MASTERDOWN: 'REDIS_URL names a replica without its primary',
  MISCONF: 'Redis refuses writes because it could not save its data; free its disk or disable persistence',
  MOVED: 'REDIS_URL names a node of a cluster; use redis+cluster://',
  NOAUTH: 'Redis requires a password; add it to REDIS_URL',
  NOPERM: 'the user of REDIS_URL lacks rights; docs/operations.md has the ACL',
  NOREPLICAS: 'Redis refuses writes because too few of its replicas are connected (min-replicas-to-write)',
  OOM: 'Redis has reached maxmemory; raise it, or lower STREAM_TTL_MS',
  READONLY: 'REDIS_URL names a replica; use the address of the primary',
  WRONGPASS: 'Redis rejects the user or the password of REDIS_URL',
  closed: 'Redis has closed the connection',
  database: 'the database of REDIS_URL does not exist',
  no_cluster: 'REDIS_URL names a Redis without cluster mode; use redis://',
  no_node: 'no node of REDIS_URL answers; check the addresses, TLS and the network',
  no_sentinel:
    'no Sentinel of REDIS_URL names a primary; check the addresses, the name after them, and REDIS_SENTINEL_PASSWORD',
  max_clients: 'Redis has reached maxclients',
  pending: 'Redis has not answered yet',
  timeout: 'Redis does not reply within 250 ms',
  unknown_command:
    'REDIS_URL names a Sentinel, or a server that lacks a command; use redis+sentinel://, or the address of the primary',
};

const TLS_HINT =
  'the TLS connection failed; check the certificate of Redis, NODE_EXTRA_CA_CERTS, and rediss:// or redis://';
const OTHER_HINT = 'look the code up in the documentation of Redis';

/** Code words in replies of scripts and of old versions, which begin with `ERR`. */
const NESTED_CODE = /\b(ASK|CROSSSLOT|MISCONF|MOVED|NOPERM|NOREPLICAS|OOM|READONLY)\b/;
const OTHER_REPLIES: readonly (readonly [RegExp, string])[] = [
  [/unknown command/i, 'unknown_command'],
  [/max number of clients/i, 'max_clients'],
  [/invalid password/i, 'WRONGPASS'],
  [/DB index/i, 'database'],
  [/cluster support disabled/i, 'no_cluster'],
];

/** Replies after which every further write would fail, too. */
const REFUSALS = new Set([
  ...['ASK', 'BUSY', 'CLUSTERDOWN', 'CROSSSLOT', 'LOADING', 'MASTERDOWN', 'MISCONF', 'MOVED', 'NOAUTH', 'NOPERM'],
  ...['NOREPLICAS', 'OOM', 'READONLY', 'unknown_command'],
]);

/** Replies to what may be forbidden to one command and allowed to another. */
const PARTIAL_REFUSALS = new Set(['ASK', 'CROSSSLOT', 'MOVED', 'NOPERM', 'unknown_command']);

/** Replies that another server at the same address, or a new authentication, may not give. */
const RECONNECTS = new Set(['MASTERDOWN', 'NOAUTH', 'READONLY']);

export function problem(reason: string, missing?: readonly string[]): Problem {
  const isTls = /CERT|CRL|ERR_SSL|ERR_TLS|EPROTO|SIGNATURE/.test(reason);
  const hint = HINTS[reason] ?? (isTls ? TLS_HINT : OTHER_HINT);
  return { reason, hint, ...(missing && { missing }) };
}

/** Returns the code word of an error of the client. */
export function reasonOf(error: unknown): string {
  const { message = '', code } = error as { message?: string; code?: unknown };
  if ((error as Error).name === 'ClusterAllFailedError') return 'no_node';
  if (message.startsWith('All sentinels are unreachable')) return 'no_sentinel';
  if (!isReplyError(error)) return typeof code === 'string' && /^[A-Z]\w{1,60}$/.test(code) ? code : 'closed';
  const [, word = 'ERR'] = /^([A-Z]{2,20})\b/.exec(message) ?? [];
  if (word !== 'ERR') return word;
  return NESTED_CODE.exec(message)?.[1] ?? OTHER_REPLIES.find(([pattern]) => pattern.test(message))?.[1] ?? word;
}

export const isRefusal = (reason: string): boolean => REFUSALS.has(reason);
export const isPartialRefusal = (reason: string): boolean => PARTIAL_REFUSALS.has(reason);
export const needsReconnect = (reason: string): boolean => RECONNECTS.has(reason);

/** Returns true for a reason that is about the network, not about what Redis has replied. */
export function isNetworkReason(reason: string): boolean {
  return (
    ['closed', 'timeout', 'no_node', 'no_sentinel'].includes(reason) ||
    /^E(AI_|CONN|HOST|NET|NOTFOUND|PIPE|TIMEDOUT)/.test(reason)
  );
}

export const channelRight = (prefix: string): string => `channels &${prefix}:*`;

/** Returns the right that a NOPERM reply is about. Redis names it in words that differ between versions. */
export function missingRight(command: string, { message }: Error, prefix: string): string {
  if (/\bkeys?\b/i.test(message)) return `keys ~${prefix}:*`;
  return /\bchannels?\b/i.test(message) ? channelRight(prefix) : `command ${command}`;
}
