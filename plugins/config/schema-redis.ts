import { FormatRegistry, Type } from '@sinclair/typebox';
import { describeRedisUrl, REDIS_URL } from './messages.ts';

/** Settings of Redis, which replicas share. */

FormatRegistry.Set(REDIS_URL, (text) => describeRedisUrl(text) === undefined);

export const Redis = Type.Object(
  {
    url: Type.String({
      format: REDIS_URL,
      description: 'redis://[user:password@]host[:port][/database], or rediss:// for TLS',
    }),
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
