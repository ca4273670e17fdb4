import { Type } from '@sinclair/typebox';

/** What replicas share. */

export const Redis = Type.Object(
  {
    url: Type.String({
      pattern: '^rediss?://\\S+$',
      description: 'redis://[user:password@]host[:port][/database], or rediss:// for TLS',
    }),
    prefix: Type.String({
      pattern: '^[A-Za-z0-9_.{}-]{1,64}$',
      default: 'sluice',
      description: 'What every key and channel begins with',
    }),
    required: Type.Boolean({
      default: false,
      description: 'Whether this replica is not ready while Redis is away',
    }),
  },
  { additionalProperties: false },
);
