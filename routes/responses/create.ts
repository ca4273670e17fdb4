import { createHash } from 'node:crypto';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Stream } from '../../plugins/streams/api.ts';
import { encodeResponseContext, type ResponseContext, responseContextOf } from './context.ts';
import { Conversations, type KeptQuestion, previousOf, withItemIds } from './conversation.ts';
import { echoOf } from './echo.ts';
import { checkRequest, ownItems, toQuestion } from './request.ts';
import type { Echo, ResponseHead } from './response-object.ts';
import type { ResponseBody } from './schema.ts';

/** Starts the answer of a request, and keeps its question. */

type Invalid = (message: string, param?: string, code?: string) => Error;

export interface StartedResponse {
  readonly stream: Stream;
  readonly head: ResponseHead;
  readonly context: ResponseContext;
}

/**
 * Starts a response, or finds the one of the idempotency key.
 * @throws 400 for a request that Sluice does not serve, 409 for the key of another request, 413 for a question that is too
 *   long to be kept, and what `streams.start` throws
 */
export async function startResponse(
  fastify: FastifyInstance,
  request: FastifyRequest,
  invalid: Invalid,
): Promise<StartedResponse> {
  const { log: logger, headers, identity, bodyClaim } = request;
  const body = request.body as ResponseBody;
  checkRequest(body, invalid);
  if (bodyClaim === undefined) throw new Error('body without a claim');
  const conversations = new Conversations(fastify, request, bodyClaim, invalid);
  const { conversation, own: items } = await conversations.itemsOf(body, ownItems(body));
  const question = toQuestion(body, conversation, invalid);
  const previous = previousOf(body);
  const key = headers['idempotency-key'] as string | undefined;
  const base = {
    createdAt: Math.floor(Date.now() / 1000),
    background: body.background === true,
    hasState: body.include?.includes('reasoning.encrypted_content') === true,
  };
  const isStored = shouldStore(fastify, body, {
    model: body.model ?? '',
    context: base,
    echo: echoOf(body),
    items,
    previous,
  });
  const echo = isStored ? echoOf(body) : { ...echoOf(body), store: false };
  const asked: ResponseContext = { ...base, ...(key !== undefined && { fingerprint: fingerprintOf(echo) }) };
  const stored = base.background ? 'background' : 'foreground';
  const stream = await fastify.streams.start(question, {
    ...{ logger, identity, bodyClaim },
    // No key of another route has a space.
    key: key && `responses ${key}`,
    resumable: isStored,
    context: encodeResponseContext(asked),
    ...(isStored && { stored }),
  });
  // A stream that was found by its key has the context of the request that has started it.
  const context = responseContextOf(stream) ?? asked;
  if (context.fingerprint !== asked.fingerprint) {
    const message = 'This idempotency key was used for another request; choose a new one.';
    throw fastify.apiError({ status: 409, code: 'conflict', message });
  }
  const { id, model } = stream;
  if (isStored) {
    const kept: KeptQuestion = { model, context, echo, items: withItemIds(id, items), previous };
    await fastify.storedResponses.save(id, identity, JSON.stringify(kept));
  }
  return { stream, context, head: { stream: id, model, createdAt: context.createdAt, echo } };
}

/**
 * Returns true if the response is kept. A question that is too long, for example with images, is not kept unless the request
 * says so: SDKs do not set `store`.
 * @throws 413 for a question that is too long and must be kept
 */
function shouldStore({ storedResponses }: FastifyInstance, body: ResponseBody, kept: KeptQuestion): boolean {
  if (body.store === false) return false;
  try {
    storedResponses.check(JSON.stringify(kept));
    return true;
  } catch (error) {
    if (body.store === true || kept.context.background) throw error;
    return false;
  }
}

function fingerprintOf(echo: Echo): string {
  return createHash('sha256').update(JSON.stringify(echo)).digest('base64url');
}
