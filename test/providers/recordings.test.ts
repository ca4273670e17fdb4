import t, { type Test } from 'tap';
import { ProviderError } from '../../providers/errors.ts';
import { createOllamaDecoder } from '../../providers/ollama.ts';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import type { Provider } from '../../providers/types.ts';
import { createAnthropicDecoder } from '../../providers/wire/anthropic-stream.ts';
import { createGeminiDecoder } from '../../providers/wire/gemini-stream.ts';
import { createOpenAIChatDecoder } from '../../providers/wire/openai-chat.ts';
import { createPartBuffer, type PartBuffer } from '../../providers/wire/parts.ts';
import type { AnswerDecoder } from '../../providers/wire/read-answer.ts';
import { type Script, startUpstream, type Upstream } from '../upstream.ts';
import { add, type Collected, collect, empty } from './collect.ts';
import { bytesOf, type Fixture, fixtures, missing, usageOf } from './fixtures.ts';
import { OPTIONS } from './options.ts';
import { cuts, random, SEED } from './random.ts';

/** Real providers' bytes, played whole, byte by byte and in random cuts: the outcome is the manifest's. */

/** The decoder of each format, as the provider of that format has it. */
const DECODERS: Readonly<Record<string, (parts: PartBuffer, provider: string) => AnswerDecoder>> = {
  'openai-sse': (parts, provider) => createOpenAIChatDecoder(parts, { dropsCopiedReasoning: provider === 'bella' }),
  'anthropic-sse': createAnthropicDecoder,
  'gemini-sse': createGeminiDecoder,
  'ollama-ndjson': createOllamaDecoder,
};

const streams = fixtures(...Object.keys(DECODERS));
const errors = fixtures('http-error');

function providerAt(t: Test, { url }: Upstream, fixture: Fixture): Provider {
  const options = { ...OPTIONS, name: fixture.provider, baseUrl: `${url}/v1`, apiKeys: ['test-key'] };
  const type = PROVIDER_TYPES[fixture.provider] ?? PROVIDER_TYPES['openai-compatible'];
  const provider = type?.create(options);
  if (provider === undefined) throw new Error(`no provider for ${fixture.provider}`);
  t.teardown(() => provider.close());
  return provider;
}

const ask = (provider: Provider) =>
  collect(provider.stream({ model: 'm', messages: [{ role: 'user', content: 'q' }] }, new AbortController().signal));

function playing(fixture: Fixture, pieces: readonly Buffer[]): Script {
  return async ({ response }) => {
    response.writeHead(fixture.http_status, { 'content-type': fixture.content_type, ...fixture.headers });
    for (const piece of pieces) {
      response.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    response.end();
  };
}

function check(t: Test, got: Collected, { file, expected }: Fixture): void {
  if (file === 'gemini/prompt-blocked.sse') {
    // The manifest says what the bytes hold; to us a question without any candidate is an error.
    t.match(got.error, { code: 'upstream_rejected', reason: 'prompt_blocked', retryable: false });
    return;
  }
  t.equal(got.text, expected.text, 'text');
  t.equal(got.reasoning, expected.reasoning, 'reasoning');
  t.same(
    got.toolCalls,
    expected.tool_calls.map(({ id, name, arguments: args }) => ({ id, name, arguments: args })),
    'tool calls',
  );
  if (expected.error !== null) {
    t.ok(got.error instanceof ProviderError, 'a ProviderError');
    const { code, upstream, message } = got.error as ProviderError;
    t.equal(code, 'upstream_error');
    t.equal(upstream?.message, expected.error.message, 'what the provider said is kept for classification');
    t.notMatch(message, expected.error.message, 'and not shown');
    t.equal(got.finish, undefined, 'an error beats a finish reason');
  } else {
    t.equal(got.error, undefined, 'no error');
    t.equal(got.finish?.rawReason ?? null, expected.finish_reason, 'finish reason');
    t.same(usageOf(got.finish?.usage), withOurNames(expected), 'usage');
  }
}

/**
 * The manifest calls OpenAI's cache counts `cached`, and Anthropic's `cache_read`: both are the same to
 * us. It leaves out what Anthropic counts for thinking.
 */
function withOurNames({ usage, usage_raw: raw }: Fixture['expected']): Record<string, number> | null {
  if (usage?.cache_read_tokens === undefined) return usage;
  const { cache_read_tokens: cached, ...rest } = usage;
  const thinking = raw?.output_tokens_details?.thinking_tokens;
  return { ...rest, cached_tokens: cached, ...(thinking !== undefined && { reasoning_tokens: thinking }) };
}

t.test('recorded streams', { skip: missing }, async (t) => {
  t.comment(`SEED=${SEED}`);
  t.ok(streams.length >= 110, `${streams.length} recordings`);
  for (const fixture of streams) {
    t.test(fixture.file, async (t) => {
      const bytes = bytesOf(fixture);
      const next = random(SEED + bytes.length);

      const whole = await startUpstream(t, playing(fixture, [bytes]));
      check(t, await ask(providerAt(t, whole, fixture)), fixture);

      const cut = await startUpstream(t, playing(fixture, cuts(bytes, next, 3_000)));
      check(t, await ask(providerAt(t, cut, fixture)), fixture);

      check(t, decodeByteByByte(bytes, fixture), fixture);
    });
  }
});

/** Without a socket, which would join what is written in one turn. */
function decodeByteByByte(bytes: Buffer, { provider, format }: Fixture): Collected {
  const parts = createPartBuffer();
  const decoder = (DECODERS[format] as (typeof DECODERS)[string])(parts, provider);
  const got = empty();
  const guarded = (step: () => void) => {
    try {
      step();
    } catch (error) {
      got.error ??= error;
    }
  };
  for (let i = 0; i < bytes.length && got.error === undefined && !decoder.done; i++) {
    guarded(() => decoder.push(bytes.subarray(i, i + 1)));
    for (const part of parts.take()) add(got, part);
  }
  if (got.error === undefined && !decoder.done) guarded(() => decoder.end());
  for (const part of parts.flush()) add(got, part);
  if (got.error === undefined) guarded(() => add(got, decoder.finish()));
  return got;
}

t.test('recorded refusals', { skip: missing }, async (t) => {
  for (const fixture of errors) {
    t.test(fixture.file, async (t) => {
      const upstream = await startUpstream(t, playing(fixture, [bytesOf(fixture)]));
      const { error, text } = await ask(providerAt(t, upstream, fixture));
      t.ok(error instanceof ProviderError);
      const refusal = error as ProviderError;
      const { http_status: status, expected } = fixture;
      t.equal(refusal.code, status === 429 ? 'upstream_rate_limited' : 'upstream_rejected');
      t.equal(refusal.upstreamStatus, status);
      t.equal(refusal.retryable, status === 429);
      const credentials = [401, 403].includes(status) || fixture.file === 'gemini/http-400-api-key.json';
      t.equal(refusal.reason, status === 429 ? 'http_429' : credentials ? 'credentials' : `http_${status}`);
      t.equal(refusal.upstream?.message, expected.error?.message, 'message');
      t.notMatch(refusal.message, expected.error?.message, 'not shown');
      t.equal(text, '');
      const after = fixture.headers?.['retry-after-ms'] ?? Number(fixture.headers?.['retry-after']) * 1000;
      if (fixture.headers?.['retry-after']) t.equal(refusal.retryAfterMs, Number(after), 'delay');
    });
  }
});
