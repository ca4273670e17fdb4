import { readFileSync } from 'node:fs';

/** Divides the file descriptors that the system allows this process. */

export interface DescriptorPlan {
  readonly listenSockets: number;
  readonly maxGenerations: number;
  /** Most sockets to providers, over all providers. */
  readonly maxUpstreamSockets: number;
  /** Most connections of clients. */
  readonly maxConnections: number;
  /** Most requests that are answered at the same time, without probes. The other connections are for new clients. */
  readonly maxRequests: number;
  /** Most responses that read a file: each of them has a second descriptor. */
  readonly maxFileResponses: number;
}

export interface DescriptorNeeds {
  readonly maxGenerations: number;
  readonly listenSockets: number;
  /** True if Redis is a cluster, with connections to each of its primaries. Their number is not known yet. */
  readonly hasRedisCluster?: boolean;
}

/** Descriptors of Node.js, standard streams, the log, Redis, DNS, keys of tokens, traces, metrics and configuration. */
const FIXED = 64;
/** Descriptors for some sixty primaries of a cluster: two connections to each, one more, and those of a failover. */
const REDIS_CLUSTER = 160;
/** Share of a low limit that a cluster gets at most. */
const REDIS_CLUSTER_SHARE = 1 / 8;
/** Addresses that a name to listen on may have. */
const ADDRESSES = 2;
/** Open files per listening socket. A small process needs no turn that accepts many connections. */
const FILES_PER_LISTEN_SOCKET = 64;
const FILES_PER_FILE_RESPONSE = 32;
/**
 * Connections per listening socket that may be new. Each socket accepts one per turn of the event loop, and a
 * request is read a turn later: a client that asks at once is not closed in favour of newer connections before that.
 */
const NEW_PER_LISTEN_SOCKET = 2;
/** Connections for probes and for requests that are refused. */
const SPARE_CONNECTIONS = 16;
/** Further sockets, as a share of the generations: retries on one side, further readers on the other. */
const EXTRA = 1 / 16;

/**
 * Plans for a limit of open files. A generation needs a socket to its provider and a connection of its client.
 * Without a known limit, nothing is lowered or bounded.
 */
export function planDescriptors(limit: number, needs: DescriptorNeeds): DescriptorPlan {
  if (!Number.isFinite(limit)) {
    const unbounded = Number.POSITIVE_INFINITY;
    return {
      maxGenerations: needs.maxGenerations,
      listenSockets: needs.listenSockets,
      maxUpstreamSockets: unbounded,
      maxConnections: unbounded,
      maxRequests: unbounded,
      maxFileResponses: unbounded,
    };
  }
  const listenSockets = atLeastOne(Math.min(needs.listenSockets, limit / FILES_PER_LISTEN_SOCKET));
  const maxFileResponses = atLeastOne(limit / FILES_PER_FILE_RESPONSE);
  const spare = SPARE_CONNECTIONS + NEW_PER_LISTEN_SOCKET * listenSockets;
  const redisCluster = needs.hasRedisCluster ? Math.ceil(Math.min(REDIS_CLUSTER, limit * REDIS_CLUSTER_SHARE)) : 0;
  const available = limit - FIXED - redisCluster - ADDRESSES * listenSockets - maxFileResponses - spare;
  const maxGenerations = atLeastOne(Math.min(needs.maxGenerations, available / (2 + 2 * EXTRA)));
  const maxUpstreamSockets = Math.ceil(maxGenerations * (1 + EXTRA));
  const maxRequests = atLeastOne(available - maxUpstreamSockets);
  return {
    listenSockets,
    maxGenerations,
    maxUpstreamSockets,
    maxConnections: maxRequests + spare,
    maxRequests,
    maxFileResponses,
  };
}

function atLeastOne(count: number): number {
  return Math.max(1, Math.floor(count));
}

/** Returns the limit of open files of this process; infinite if the system does not tell, as outside Linux. */
export function readOpenFileLimit(file = '/proc/self/limits'): number {
  try {
    const [, soft] = /^Max open files\s+(\d+)/m.exec(readFileSync(file, 'utf8')) ?? [];
    return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
