import type { LookupFunction } from 'node:net';
import type { Writable } from 'node:stream';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { DestinationStream } from 'pino';
import audit from './plugins/audit/index.ts';
import addressLimit from './plugins/auth/address-limit.ts';
import auth from './plugins/auth/index.ts';
import loopbackHost from './plugins/auth/loopback-host.ts';
import authScope from './plugins/auth/scope.ts';
import clock, { type Clock } from './plugins/clock.ts';
import config, { type Config } from './plugins/config/index.ts';
import { longestAnswerMs } from './plugins/config/model-routes.ts';
import { parseRedisUrl } from './plugins/config/redis-url.ts';
import { planDescriptors, readOpenFileLimit } from './plugins/descriptors.ts';
import { createClientErrorHandler, rejectUnknownExpectations } from './plugins/http/client-errors.ts';
import connections from './plugins/http/connections.ts';
import cors from './plugins/http/cors.ts';
import errors, { sendError } from './plugins/http/errors.ts';
import jsonBody from './plugins/http/json-body.ts';
import { createLazyValidators, type LazyValidators } from './plugins/http/lazy-validators.ts';
import listeners from './plugins/http/listeners.ts';
import { logController, loggerOptions } from './plugins/http/logging.ts';
import methodNotAllowed from './plugins/http/method-not-allowed.ts';
import { requestId } from './plugins/http/request-id.ts';
import requestLog from './plugins/http/request-log.ts';
import schemas from './plugins/http/schemas.ts';
import strictRequests from './plugins/http/strict-requests.ts';
import lifecycle from './plugins/lifecycle.ts';
import budgetWarnings from './plugins/limits/budget-warnings.ts';
import limits from './plugins/limits/index.ts';
import { memoryShares } from './plugins/limits/memory-shares.ts';
import limitsScope from './plugins/limits/scope.ts';
import llm from './plugins/llm/index.ts';
import load from './plugins/load/index.ts';
import metrics from './plugins/metrics/index.ts';
import prices from './plugins/prices/index.ts';
import providers from './plugins/providers.ts';
import redis from './plugins/redis/index.ts';
import responses from './plugins/responses/index.ts';
import sse from './plugins/sse/index.ts';
import streams from './plugins/streams/index.ts';
import type { StreamStore } from './plugins/streams/types.ts';
import tracing from './plugins/tracing/index.ts';
import usage from './plugins/usage/index.ts';
import webhooks from './plugins/webhooks/index.ts';
import type { Provider } from './providers/types.ts';
import agui from './routes/agui/index.ts';
import ask from './routes/ask/index.ts';
import client from './routes/client/index.ts';
import docs from './routes/docs/index.ts';
import reference from './routes/docs/reference.ts';
import health from './routes/health/index.ts';
import metricsRoute from './routes/metrics/index.ts';
import playground from './routes/playground/index.ts';
import responseRoutes from './routes/responses/index.ts';
import routeSchemas from './routes/schemas.ts';
import { refusalEvents } from './routes/sse-events.ts';
import streamRoutes from './routes/streams/index.ts';
import tickets from './routes/tickets/index.ts';
import ui from './routes/ui/index.ts';
import v1 from './routes/v1/index.ts';

export interface Overrides {
  /** Providers by configured name, instead of those that the configuration describes. */
  readonly providers?: Readonly<Record<string, Provider>>;
  readonly clock?: Clock;
  readonly store?: StreamStore;
  /** Limit of open files, instead of that of the process. */
  readonly openFileLimit?: number;
  /** Resolves the host of the webhook, instead of DNS. */
  readonly webhookLookup?: LookupFunction;
  /** Validators of requests, whose compiler the caller may load before the first request. */
  readonly validators?: LazyValidators;
  /** Destination of log lines; standard output by default. */
  readonly logTo?: DestinationStream & { readonly droppedLines?: number };
  /** Destination of usage records, instead of standard output. */
  readonly usageTo?: Writable;
}

/** Shortest grace time at which readers are sent to new connections: browsers wait up to 5 s before they reconnect. */
const MIN_ROTATION_GRACE_MS = 5_000;

/** Builds the whole service without listening. Plugins are registered in the order of their dependencies. */
export async function buildApp(settings: Config, overrides: Overrides = {}): Promise<FastifyInstance> {
  const countUnrouted = (status: number) =>
    app.metrics.requests.inc({
      ...{ method: 'none', route: 'none', status: String(status) },
      key: app.metrics.keyLabels.labelOf(undefined),
    });
  const app: FastifyInstance = Fastify({
    logger: loggerOptions(settings.logLevel, overrides.logTo),
    logController,
    requestIdHeader: false,
    genReqId: requestId,
    trustProxy: toTrustFunction(settings.trustProxy),
    exposeHeadRoutes: false,
    forceCloseConnections: true,
    clientErrorHandler: createClientErrorHandler(countUnrouted),
    requestTimeout: 15_000,
    // A container with a small share of a core takes longer than the ten seconds of Fastify to load the API reference.
    pluginTimeout: 60_000,
    http: {
      highWaterMark: settings.streams.highWaterMark,
      headersTimeout: 10_000,
      connectionsCheckingInterval: 1_000,
      requireHostHeader: false, // `strict-requests` checks it and answers with a body.
    },
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: false } },
    schemaController: { compilersFactory: { buildValidator: (overrides.validators ?? createLazyValidators()).build } },
    frameworkErrors(error, request, reply) {
      reply.header('x-request-id', request.id);
      sendError(error, request as FastifyRequest, reply as FastifyReply);
      countUnrouted(reply.statusCode);
    },
  });

  rejectUnknownExpectations(app.server, countUnrouted);

  const { basePath, models, defaultModel, deadlines } = settings;
  const { highWaterMark, heartbeatMs, stallMs, ttlMs, flushMs, maxFlushMs, graceMs } = settings.streams;
  const { expectedReplicas, maxEventLoopDelayMs, messages: maxMessages } = settings.limits;
  const { keys, keyDefaults, jwt, anonymous, ticketSecret, host, trustProxy, proxy } = settings;
  const openFileLimit = overrides.openFileLimit ?? readOpenFileLimit();
  const descriptors = planDescriptors(openFileLimit, {
    maxGenerations: settings.streams.maxGenerations,
    listenSockets: settings.listenSockets,
    hasRedisCluster: settings.redis !== undefined && parseRedisUrl(settings.redis.url).kind === 'cluster',
  });
  const { maxGenerations, listenSockets, maxConnections, maxRequests, maxFileResponses } = descriptors;

  await app.register(config, { config: settings });
  let longestMs = longestAnswerMs(settings);
  const longest = () => longestMs;
  app.onConfigReload((next) => {
    longestMs = longestAnswerMs(next);
  });
  await app.register(clock, { clock: overrides.clock });
  await app.register(audit);
  await app.register(metrics, {
    hasRedis: settings.redis !== undefined,
    droppedLogLines: () => overrides.logTo?.droppedLines ?? 0,
  });
  await app.register(errors);
  await app.register(schemas);
  await app.register(tracing, { enabled: settings.tracing, providers: settings.providers });
  await app.register(requestLog);
  await app.register(strictRequests);
  await app.register(jsonBody, { maxTextChars: settings.limits.textChars });
  await app.register(cors, { origins: settings.corsOrigins });
  await app.register(connections, { maxConnections, maxRequests, maxFileResponses, stallMs, refusalEvents });
  await app.register(methodNotAllowed);
  await app.register(addressLimit, {
    perMinute: settings.limits.unauthenticatedPerMinute,
    trustsProxy: Array.isArray(trustProxy) ? trustProxy.length > 0 : Boolean(trustProxy),
  });
  await app.register(auth, {
    ...{ keys, keyDefaults, jwt, anonymous, ticketSecret, host },
    longestAnswerMs: longest,
    streamTtlMs: ttlMs,
  });
  const labelKeys = ({ keys }: Pick<Config, 'keys'>) => app.metrics.keyLabels.configure(keys.map(({ name }) => name));
  labelKeys(settings);
  app.onConfigReload(labelKeys);
  await app.register(loopbackHost, { host, origins: settings.corsOrigins });
  await app.register(redis, { redis: settings.redis });
  await app.register(limits, { expectedReplicas, streamTtlMs: ttlMs, ...memoryShares(settings) });
  await app.register(load, { minIntervalMs: flushMs, maxIntervalMs: maxFlushMs, maxEventLoopDelayMs });
  await app.register(providers, {
    entries: settings.providers,
    overrides: overrides.providers,
    proxy,
    connections: maxGenerations,
    maxSockets: descriptors.maxUpstreamSockets,
    highWaterMark,
    connectTimeoutMs: deadlines.connectMs,
    headersTimeoutMs: deadlines.headersMs,
  });
  await app.register(prices, { providers: settings.providers, table: settings.priceTable });
  await app.register(llm, { models, providers: settings.providers, defaultModel, deadlines });
  await app.register(budgetWarnings);
  await app.register(usage, { settings: settings.usage, output: overrides.usageTo ?? process.stdout });
  await app.register(webhooks, { settings: settings.responses.webhook, proxy, lookup: overrides.webhookLookup });
  await app.register(responses, { settings: settings.responses, streamTtlMs: ttlMs, longestAnswerMs: longest });
  await app.register(streams, {
    settings: { ...settings.streams, maxGenerations },
    maxMessages,
    maxReadersPerStream: settings.limits.readersPerStream,
    longestAnswerMs: longest,
    archive: app.answerArchive,
    store: overrides.store,
  });
  await app.register(sse, {
    heartbeatMs,
    stallMs,
    // A shorter grace time would end the answer of a client that comes back as late as a browser may.
    maxConnectionMs: graceMs < MIN_ROTATION_GRACE_MS ? 0 : settings.streams.maxConnectionMs,
  });
  await app.register(listeners, { listenSockets, highWaterMark });
  await app.register(lifecycle, {
    drainMs: settings.drainMs,
    drainHandoverMs: settings.drainHandoverMs,
    requireRedis: settings.redis?.required === true,
  });
  await app.register(reference);
  await app.register(routeSchemas);

  const publicScope = async (scope: FastifyInstance) => {
    await scope.register(health);
    await scope.register(metricsRoute);
    await scope.register(client);
    if (settings.playground) await scope.register(pageScope);
  };
  const pageScope = async (scope: FastifyInstance) => {
    scope.addHook('onRequest', app.limitFileResponses);
    await scope.register(docs);
    await scope.register(playground);
  };
  const apiScope = async (scope: FastifyInstance) => {
    await scope.register(authScope, { refusalEvents });
    await scope.register(limitsScope);
    await scope.register(ask);
    await scope.register(streamRoutes, { longestAnswerMs: longest });
    await scope.register(tickets);
    await scope.register(ui);
    await scope.register(agui);
    await scope.register(v1, { prefix: '/v1' });
    await scope.register(responseRoutes, { prefix: '/v1/responses' });
  };
  await app.register(publicScope, { prefix: basePath });
  await app.register(apiScope, { prefix: basePath });
  app.addMethodNotAllowedRoutes();
  if (maxGenerations < settings.streams.maxGenerations) {
    app.log.warn(
      { openFileLimit, configured: settings.streams.maxGenerations, maxGenerations, maxConnections },
      'MAX_GENERATIONS lowered to what the limit of open files allows; raise the limit (ulimit -n) or lower the setting',
    );
  }
  return app;
}

/** Returns the trust function for a number of gateway hops. Other values pass unchanged. */
function toTrustFunction(setting: Config['trustProxy']) {
  return typeof setting === 'number' ? (_: string, hop: number) => hop < setting : setting;
}
