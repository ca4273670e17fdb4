import { Type } from '@sinclair/typebox';
import fp from 'fastify-plugin';
import { MODEL_NAME } from '../config/patterns.ts';

/** Schemas that every route may reference by `$ref`. */

const ModelName = Type.String({
  $id: 'ModelName',
  description: 'Public name of a model. If absent, the default model answers.',
  pattern: MODEL_NAME,
});

/** Body of `sendError`. */
const ErrorBody = Type.Object(
  {
    error: Type.Object({
      code: Type.String({ description: 'Stable code; see docs/errors.md' }),
      message: Type.String({ description: 'What is wrong and what to do' }),
      requestId: Type.String({ description: 'Also in the header `X-Request-Id`' }),
    }),
  },
  { $id: 'Error', description: 'Error outside `/v1`' },
);

/** Registers `ModelName` and `Error`. `routes/schemas.ts` registers the schemas of answers. */
export default fp(
  async (fastify) => {
    fastify.addSchema(ModelName);
    fastify.addSchema(ErrorBody);
    // Response schemas are documentation. A compiled serializer would drop fields that a schema lacks, and
    // compiling one for every status of every route adds half to the time of the start.
    fastify.setSerializerCompiler(() => JSON.stringify);
  },
  { name: 'schemas' },
);
