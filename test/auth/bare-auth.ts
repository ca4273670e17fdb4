import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import type { Test } from 'tap';
import audit from '../../plugins/audit/index.ts';
import addressLimit from '../../plugins/auth/address-limit.ts';
import type { Identity } from '../../plugins/auth/identity.ts';
import auth, { type AuthOptions } from '../../plugins/auth/index.ts';
import authScope from '../../plugins/auth/scope.ts';
import clock, { type Clock } from '../../plugins/clock.ts';
import config from '../../plugins/config/index.ts';
import { loadConfig } from '../../plugins/config/load.ts';
import errors from '../../plugins/http/errors.ts';
import metrics from '../../plugins/metrics/index.ts';
import { refusalEvents } from '../../routes/sse-events.ts';
import { captureLog, sha256 } from '../helper.ts';

/** Authentication without the rest of the service, with a route for each kind of access. */
export interface BareAuth {
  readonly app: FastifyInstance;
  readonly log: () => string;
  /** Sends a request from an address. Returns its status, and the identity that its route gets. */
  get(path: string, headers?: Record<string, string>, address?: string): Promise<Answer>;
  /** Sends a request to a route for keys and tokens, and returns the identity itself, with its credential. */
  identify(headers: Record<string, string>): Promise<Identity>;
  /** Replaces the keys and the token settings, as a reload of the configuration does. */
  reload(keys: AuthOptions['keys'], jwt?: AuthOptions['jwt'], rest?: Partial<AuthOptions>): void;
}

export interface Answer {
  readonly status: number;
  readonly identity: Identity | undefined;
  readonly headers: Record<string, unknown>;
  readonly error: { readonly code: string; readonly message: string } | undefined;
  /** Events of a response to an EventSource. */
  readonly events: readonly { readonly data?: string; readonly lastEventId?: string }[] | undefined;
}

export const SECRET = 'a ticket secret of thirty-two bytes';
export const LONGEST_ANSWER_MS = 600_000;
export const STREAM_TTL_MS = 300_000;

/** A key of the configuration whose text is its name. */
export const keyOf = (name: string, rest: Partial<AuthOptions['keys'][number]> = {}) => ({
  name,
  sha256: sha256(name),
  ...rest,
});

export interface BareAuthOptions extends Partial<AuthOptions> {
  readonly time?: Clock;
  /** Unauthenticated requests per minute and address; by default there is no limit. */
  readonly perMinute?: number;
  /** Number of trusted gateway hops. */
  readonly hops?: number;
}

export async function bareAuth(
  t: Test,
  { time, perMinute = 0, hops = 0, ...options }: BareAuthOptions = {},
): Promise<BareAuth> {
  const { logTo, log } = captureLog();
  const app = Fastify({ logger: { stream: logTo }, trustProxy: (_, hop) => hop < hops });
  const settings = loadConfig({});
  await app.register(clock, { clock: time });
  await app.register(audit);
  await app.register(config, { config: settings });
  await app.register(metrics, { hasRedis: false });
  await app.register(errors);
  app.decorateReply('stream', function stream(this: FastifyReply, events: readonly object[]) {
    return this.type('text/event-stream').send(JSON.stringify(events));
  } as never);
  await app.register(addressLimit, { perMinute, trustsProxy: hops > 0 });
  await app.register(auth, {
    keys: [],
    ticketSecret: SECRET,
    host: '127.0.0.1',
    longestAnswerMs: () => LONGEST_ANSWER_MS,
    streamTtlMs: STREAM_TTL_MS,
    ...options,
  });
  let seen: Identity | undefined;
  await app.register(async (scope) => {
    await scope.register(authScope, { refusalEvents });
    const handler = async ({ identity }: { identity: Identity }) => {
      seen = identity;
      return identity;
    };
    scope.get('/api', { config: { access: 'api' } }, handler);
    scope.get('/ask', { config: { access: 'ask', refusesInBand: true } }, handler);
    scope.get('/ask/:id', { config: { access: 'ask' } }, handler);
    scope.get('/streams/:id', { config: { access: 'read', refusesInBand: true } }, handler);
    scope.get('/read', { config: { access: 'read' } }, handler);
    scope.get('/public', { config: { access: 'public' } }, handler);
  });
  t.teardown(() => app.close());
  return {
    app,
    log,
    async get(path, headers = {}, remoteAddress = '127.0.0.1') {
      const response = await app.inject({ url: path, headers, remoteAddress });
      const { statusCode: status } = response;
      const isOk = status === 200;
      const isEvents = String(response.headers['content-type']).startsWith('text/event-stream');
      const events = isEvents ? response.json() : undefined;
      return {
        status,
        headers: response.headers,
        identity: isOk && !isEvents ? response.json() : undefined,
        events,
        error: isOk ? undefined : response.json().error,
      };
    },
    async identify(headers) {
      seen = undefined;
      await app.inject({ url: '/api', headers });
      if (seen === undefined) throw new Error('the request was refused');
      return seen;
    },
    reload(keys, jwt, { keyDefaults, anonymous } = {}) {
      const rest = { ...(jwt && { jwt }), ...(keyDefaults && { keyDefaults }), ...(anonymous && { anonymous }) };
      app.reloadConfig({ ...settings, keys: [...keys], ...rest });
    },
  };
}
