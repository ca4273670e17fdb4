import t, { type Test } from 'tap';
import { ProviderError } from '../../providers/errors.ts';
import { createOllamaDecoder } from '../../providers/ollama.ts';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import type { FinishPart, Provider } from '../../providers/types.ts';
import { createAnthropicDecoder } from '../../providers/wire/anthropic-stream.ts';
import { createGeminiDecoder } from '../../providers/wire/gemini-stream.ts';
import { dropRepeatedReasoning } from '../../providers/wire/leading-reasoning.ts';
import { createOpenAIChatDecoder } from '../../providers/wire/openai-chat.ts';
import { createPartBuffer, type PartBuffer } from '../../providers/wire/parts.ts';
import type { AnswerDecoder } from '../../providers/wire/read-answer.ts';
import { type Script, startUpstream, type Upstream } from '../upstream.ts';
import { add, type Collected, collect, empty } from './collect.ts';
import { bytesOf, type Fixture, fixtures, noRecordings, usageOf } from './fixtures.ts';
import { OPTIONS } from './options.ts';
import { random, SEED, splitRandomly } from './random.ts';

/**
 * Plays recorded responses of real providers whole, byte by byte and in random pieces, and compares the result
 * with the manifest.
 */

/** Decoders by format. */
const DECODERS: Readonly<Record<string, (parts: PartBuffer, provider: string) => AnswerDecoder>> = {
  'openai-sse': (parts, provider) =>
    createOpenAIChatDecoder(parts, { wrapParts: provider === 'bella' ? dropRepeatedReasoning : undefined }),
  'anthropic-sse': createAnthropicDecoder,
  'gemini-sse': createGeminiDecoder,
  'ollama-ndjson': createOllamaDecoder,
};

const streams = fixtures(...Object.keys(DECODERS));
const errors = fixtures('http-error');

function createProvider(t: Test, { url }: Upstream, fixture: Fixture): Provider {
  const common = { ...OPTIONS, name: fixture.provider, baseUrl: `${url}/v1`, apiKeys: ['test-key'] };
  const options = { ...common, api: 'chat' } as const; // The recordings of OpenAI are Chat Completions.
  const type = PROVIDER_TYPES[fixture.provider] ?? PROVIDER_TYPES['openai-compatible'];
  const provider = type?.create(options);
  if (provider === undefined) throw new Error(`no provider for ${fixture.provider}`);
  t.teardown(() => provider.close());
  return provider;
}

const collectAnswer = (provider: Provider) =>
  collect(provider.stream({ model: 'm', messages: [{ role: 'user', content: 'q' }] }, new AbortController().signal));

function play(fixture: Fixture, pieces: readonly Buffer[]): Script {
  return async ({ response }) => {
    response.writeHead(fixture.http_status, { 'content-type': fixture.content_type, ...fixture.headers });
    for (const piece of pieces) {
      response.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    response.end();
  };
}

function check(t: Test, collected: Collected, fixture: Fixture): void {
  const { file, expected } = fixture;
  if (file === 'gemini/prompt-blocked.sse') {
    // The manifest describes the bytes. Sluice treats an answer without any candidate as an error.
    t.match(collected.error, { code: 'upstream_rejected', reason: 'prompt_blocked', retryable: false });
    return;
  }
  t.equal(collected.text, expected.text + (expected.refusal ?? ''), 'text');
  t.equal(collected.reasoning, expected.reasoning, 'reasoning');
  t.same(
    collected.toolCalls,
    expected.tool_calls.map(({ id, name, arguments: args }) => ({ id, name, arguments: args })),
    'tool calls',
  );
  if (expected.error !== null) {
    t.ok(collected.error instanceof ProviderError, 'a ProviderError');
    const { code, upstream, message } = collected.error as ProviderError;
    t.equal(code, 'upstream_error');
    t.equal(upstream?.message, expected.error.message, 'the error keeps the message of the provider');
    t.notMatch(message, expected.error.message, 'the client does not get the message of the provider');
    t.equal(collected.finish, undefined, 'no finish part after an error');
  } else {
    t.equal(collected.error, undefined, 'no error');
    t.equal(collected.finish?.rawReason ?? null, expected.finish_reason, 'finish reason');
    t.same(usageOf(collected.finish?.usage), withSluiceNames(fixture), 'usage');
  }
}

/**
 * Converts the usage of the manifest. The manifest names OpenAI's cache count `cached` and Anthropic's
 * `cache_read`, which Sluice does not distinguish. It omits Anthropic's count of thinking tokens. It takes the
 * output tokens as sent, while Sluice counts reasoning as output, and never lets a count fall.
 */
function withSluiceNames({ file, expected: { usage, usage_raw: raw } }: Fixture): Record<string, number> | null {
  if (usage === null) return null;
  const { cache_read_tokens: cached, ...rest } = usage;
  const details = raw?.output_tokens_details as { thinking_tokens?: number } | undefined;
  // Moonshot and Together have it beside the other counts, where the manifest does not look.
  const cachedBeside = raw?.cached_tokens;
  const thinking = cached === undefined ? undefined : details?.thinking_tokens;
  return {
    ...rest,
    ...(cached !== undefined && { cached_tokens: cached }),
    ...(typeof cachedBeside === 'number' && { cached_tokens: cachedBeside }),
    ...(thinking !== undefined && { reasoning_tokens: thinking }),
    ...(rest.output_tokens !== undefined && { output_tokens: rest.output_tokens + reasoningBesideOutput(raw) }),
    // The last report has 0, the first one 1.
    ...(file === 'anthropic/refusal.sse' && { output_tokens: 1 }),
  };
}

/** Returns the reasoning tokens that Gemini and xAI count beside the output tokens; otherwise 0. */
function reasoningBesideOutput(raw: Fixture['expected']['usage_raw']): number {
  const { thoughtsTokenCount: thoughts, prompt_tokens, completion_tokens, total_tokens } = raw ?? {};
  if (typeof thoughts === 'number') return thoughts;
  const details = raw?.completion_tokens_details as { reasoning_tokens?: number } | undefined;
  const reasoning = details?.reasoning_tokens ?? 0;
  return Number(prompt_tokens) + Number(completion_tokens) + reasoning === total_tokens ? reasoning : 0;
}

t.test('recorded streams decode to the result in the manifest', { skip: noRecordings }, async (t) => {
  t.comment(`SEED=${SEED}`);
  t.ok(streams.length >= 110, `${streams.length} recordings`);
  for (const fixture of streams) {
    t.test(fixture.file, async (t) => {
      const bytes = bytesOf(fixture);
      const next = random(SEED + bytes.length);

      const whole = await startUpstream(t, play(fixture, [bytes]));
      check(t, await collectAnswer(createProvider(t, whole, fixture)), fixture);

      const pieces = await startUpstream(t, play(fixture, splitRandomly(bytes, next, 3_000)));
      check(t, await collectAnswer(createProvider(t, pieces, fixture)), fixture);

      check(t, decodeByteByByte(bytes, fixture), fixture);
    });
  }
});

/** Decodes without a socket, which would join bytes that are written in one turn. */
function decodeByteByByte(bytes: Buffer, { provider, format }: Fixture): Collected {
  const parts = createPartBuffer();
  const decoder = (DECODERS[format] as (typeof DECODERS)[string])(parts, provider);
  const collected = empty();
  const guarded = (step: () => void) => {
    try {
      step();
    } catch (error) {
      collected.error ??= error;
    }
  };
  for (let i = 0; i < bytes.length && collected.error === undefined && !decoder.done; i++) {
    guarded(() => decoder.push(bytes.subarray(i, i + 1)));
    for (const part of parts.take()) add(collected, part);
  }
  if (collected.error === undefined && !decoder.done) guarded(() => decoder.end());
  let finish: FinishPart | undefined;
  if (collected.error === undefined)
    guarded(() => {
      finish = decoder.finish();
    });
  for (const part of parts.flush()) add(collected, part);
  if (finish) add(collected, finish);
  return collected;
}

t.test('recorded error responses become the expected ProviderError', { skip: noRecordings }, async (t) => {
  for (const fixture of errors) {
    t.test(fixture.file, async (t) => {
      const upstream = await startUpstream(t, play(fixture, [bytesOf(fixture)]));
      const { error, text } = await collectAnswer(createProvider(t, upstream, fixture));
      t.ok(error instanceof ProviderError);
      const rejection = error as ProviderError;
      const { http_status: status, expected } = fixture;
      t.equal(rejection.code, status === 429 ? 'upstream_rate_limited' : 'upstream_rejected');
      t.equal(rejection.upstreamStatus, status);
      t.equal(rejection.retryable, status === 429);
      const credentials = [401, 403].includes(status) || fixture.file === 'gemini/http-400-api-key.json';
      t.equal(rejection.reason, status === 429 ? 'http_429' : credentials ? 'credentials' : `http_${status}`);
      t.equal(rejection.upstream?.message, expected.error?.message, 'message');
      t.notMatch(rejection.message, expected.error?.message, 'the client does not get the message of the provider');
      t.equal(text, '');
      const after = fixture.headers?.['retry-after-ms'] ?? Number(fixture.headers?.['retry-after']) * 1000;
      if (fixture.headers?.['retry-after']) t.equal(rejection.retryAfterMs, Number(after), 'delay');
    });
  }
});
