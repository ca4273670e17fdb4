import { FormatRegistry, Type } from '@sinclair/typebox';
import { describeRedisUrl, REDIS_URL } from './redis-url.ts';

/** Settings of Redis, which replicas share. */

FormatRegistry.Set(REDIS_URL, (text) => describeRedisUrl(text) === undefined);

export const Redis = Type.Object(
  {
    url: Type.String({
      format: REDIS_URL,
      description:
        'redis://[user:password@]host[:port][/database], redis+cluster://[user:password@]host:port,host:port, or redis+sentinel://[user:password@]host:port,host:port/name; rediss for TLS',
    }),
    sentinelPassword: Type.Optional(
      Type.String({
        minLength: 1,
        description: 'Password of the Sentinels, if they have one. REDIS_URL has that of Redis',
      }),
    ),
    prefix: Type.String({
      pattern: '^[A-Za-z0-9_.{}-]{1,64}$',
      default: 'sluice',
      description: 'Prefix of every key and channel',
    }),
    required: Type.Boolean({
      default: false,
      description: 'If true, this replica is not ready while Redis is unavailable',
    }),
  },
  { additionalProperties: false },
);
