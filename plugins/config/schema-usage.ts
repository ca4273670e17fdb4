import { Type } from '@sinclair/typebox';

/** Settings of usage records. */

export const UsageRecords = Type.Object(
  {
    to: Type.Union(
      ['none', 'stdout', 'file', 'redis'].map((name) => Type.Literal(name)),
      { default: 'stdout', description: 'Where the usage record of each answer goes' },
    ),
    file: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 4_096,
        description: 'File to which records are appended, with `to: file`',
      }),
    ),
    maxLength: Type.Integer({
      minimum: 1,
      maximum: 100_000_000,
      default: 100_000,
      description: 'Records that the Redis stream keeps, with `to: redis`; about 0.6 KB each',
    }),
  },
  { additionalProperties: false, default: {} },
);
