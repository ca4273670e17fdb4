import fp from 'fastify-plugin';
import { AguiEvent } from './agui/schema.ts';
import { StreamEvent } from './event-schema.ts';
import { RESPONSE_SCHEMAS } from './responses/answer-schema.ts';
import { UiMessageChunk } from './ui/schema.ts';
import { UsageRecord } from './usage-schema.ts';
import { ANSWER_SCHEMAS } from './v1/answer-schema.ts';

/**
 * Registers the schemas that routes reference by `$ref`. Register it outside of any scope: Fastify builds
 * a validator of its own for every scope that adds schemas, which slows down the start.
 */
export default fp(
  async (fastify) => {
    for (const schema of [StreamEvent, UiMessageChunk, AguiEvent, UsageRecord, ...ANSWER_SCHEMAS, ...RESPONSE_SCHEMAS])
      fastify.addSchema(schema);
  },
  { name: 'route-schemas', dependencies: ['schemas'] },
);
