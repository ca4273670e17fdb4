import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { DestinationStream } from 'pino';
import auth from './plugins/auth/index.ts';
import clock, { type Clock } from './plugins/clock.ts';
import config, { type Config } from './plugins/config/index.ts';
import { handleClientError, rejectUnknownExpectations } from './plugins/http/client-errors.ts';
import cors from './plugins/http/cors.ts';
import errors, { sendError } from './plugins/http/errors.ts';
import jsonBody from './plugins/http/json-body.ts';
import listeners from './plugins/http/listeners.ts';
import { logController, loggerOptions } from './plugins/http/logging.ts';
import methodNotAllowed from './plugins/http/method-not-allowed.ts';
import requestLog from './plugins/http/request-log.ts';
import strictRequests from './plugins/http/strict-requests.ts';
import lifecycle from './plugins/lifecycle.ts';
import limits from './plugins/limits/index.ts';
import llm from './plugins/llm/index.ts';
import load from './plugins/load/index.ts';
import metrics from './plugins/metrics/index.ts';
import providers from './plugins/providers.ts';
import redis from './plugins/redis/index.ts';
import sse from './plugins/sse/index.ts';
import streams from './plugins/streams/index.ts';
import type { StreamStore } from './plugins/streams/types.ts';
import tracing from './plugins/tracing/index.ts';
import type { Provider } from './providers/types.ts';
import ask from './routes/ask/index.ts';
import docs from './routes/docs/index.ts';
import reference from './routes/docs/reference.ts';
import health from './routes/health/index.ts';
import metricsRoute from './routes/metrics/index.ts';
import playground from './routes/playground/index.ts';
import streamRoutes from './routes/streams/index.ts';
import tickets from './routes/tickets/index.ts';
import ui from './routes/ui/index.ts';
import v1 from './routes/v1/index.ts';

export interface Overrides {
  /** Providers by configured name, in place of those that the configuration describes. */
  readonly providers?: Readonly<Record<string, Provider>>;
  readonly clock?: Clock;
  readonly store?: StreamStore;
  /** Where log lines go; standard output by default. */
  readonly logTo?: DestinationStream;
}

/** The whole service, not yet listening. The order of registration is the order of dependence. */
export async function buildApp(settings: Config, overrides: Overrides = {}): Promise<FastifyInstance> {
  const app = Fastify({
    logger: loggerOptions(settings.logLevel, overrides.logTo),
    logController,
    requestIdHeader: false,
    genReqId: requestId,
    trustProxy: trusted(settings.trustProxy),
    exposeHeadRoutes: false,
    forceCloseConnections: true,
    clientErrorHandler: handleClientError,
    requestTimeout: 15_000,
    http: {
      highWaterMark: settings.streams.highWaterMark,
      headersTimeout: 10_000,
      connectionsCheckingInterval: 1_000,
      requireHostHeader: false, // Checked by `strict-requests`, with a body that says so.
    },
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: false } },
    frameworkErrors: (error, request, reply) => sendError(error, request as FastifyRequest, reply as FastifyReply),
  });

  rejectUnknownExpectations(app.server);

  await app.register(config, { config: settings });
  await app.register(clock, { clock: overrides.clock });
  await app.register(metrics);
  await app.register(errors);
  await app.register(tracing);
  await app.register(requestLog);
  await app.register(strictRequests);
  await app.register(jsonBody);
  await app.register(cors);
  await app.register(methodNotAllowed);
  await app.register(auth);
  await app.register(redis);
  await app.register(limits);
  await app.register(load);
  await app.register(providers, { overrides: overrides.providers });
  await app.register(llm);
  await app.register(streams, { store: overrides.store });
  await app.register(sse);
  await app.register(listeners);
  await app.register(lifecycle);
  await app.register(reference);

  await app.register(
    async (base) => {
      await base.register(health);
      await base.register(metricsRoute);
      await base.register(ask);
      await base.register(streamRoutes);
      await base.register(tickets);
      await base.register(v1);
      await base.register(ui);
      if (settings.playground) {
        await base.register(docs);
        await base.register(playground);
      }
    },
    { prefix: settings.basePath },
  );
  app.addMethodNotAllowedRoutes();
  return app;
}

/** The caller's id where it is a plain word, so that one question can be followed across services. */
function requestId({ headers }: IncomingMessage): string {
  const given = headers['x-request-id'];
  return typeof given === 'string' && /^[\w.-]{1,64}$/.test(given) ? given : randomUUID();
}

/** A number is how many hops in front are one's own. */
function trusted(setting: Config['trustProxy']) {
  return typeof setting === 'number' ? (_: string, hop: number) => hop < setting : setting;
}
