import type { ServerResponse } from 'node:http';
import t, { type Test } from 'tap';
import { runAttempt } from '../../plugins/llm/attempt.ts';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import type { AnswerPart } from '../../providers/types.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { OPTIONS } from '../providers/options.ts';
import { startUpstream } from '../upstream.ts';
import { anthropic, event, gemini, ollama, openai } from './wire.ts';

/** Tests silent models: real connections to upstreams, and deadlines on a clock that the test advances. */

const DEADLINES = { firstTokenMs: 60_000, idleMs: 30_000, thinkingMs: 300_000, totalMs: 3_600_000 };
const SECOND = 1_000;

interface Silent {
  readonly type: string;
  readonly api?: 'responses';
  /** Report that the model is thinking. */
  readonly thinking: string;
  /** Bytes that are no such report. */
  readonly ping: string;
  readonly answer: string;
}

const SILENT: readonly Silent[] = [
  {
    type: 'anthropic',
    thinking:
      anthropic.start() +
      anthropic.event({ type: 'content_block_start', index: 0, content_block: { type: 'thinking', thinking: '' } }),
    ping: anthropic.event({ type: 'ping' }),
    answer: anthropic.text('whole', 1) + anthropic.finish() + anthropic.done,
  },
  {
    type: 'openai',
    api: 'responses',
    thinking:
      event({ type: 'response.created', response: {} }) +
      event({
        type: 'response.output_item.added',
        output_index: 0,
        item: { type: 'reasoning', id: 'rs', summary: [] },
      }),
    ping: `${event({ type: 'response.in_progress', response: {} })}: ping\n\n`,
    answer:
      event({ type: 'response.output_text.delta', output_index: 1, item_id: 'm', delta: 'whole' }) +
      event({ type: 'response.completed', response: { status: 'completed' } }),
  },
  {
    type: 'gemini',
    thinking: gemini.chunk([{ text: 'Hm.', thought: true }]),
    ping: ': ping\n\n',
    answer: gemini.chunk([{ text: 'whole' }], 'STOP'),
  },
  {
    type: 'ollama',
    thinking: ollama.line({ message: { role: 'assistant', content: '', thinking: 'Hm.' } }),
    ping: '\n',
    answer: ollama.text('whole') + ollama.done(),
  },
];

/** Asks an upstream that the test plays by hand. */
async function ask(t: Test, { type, api }: Pick<Silent, 'type' | 'api'>) {
  const upstream = await startUpstream(t, ({ response }) => {
    response.writeHead(200, { 'content-type': type === 'ollama' ? 'application/x-ndjson' : 'text/event-stream' });
    response.flushHeaders();
  });
  const provider = PROVIDER_TYPES[type]?.create({ ...OPTIONS, api, baseUrl: upstream.url, apiKeys: ['k'] });
  if (provider === undefined) throw new Error(`no provider type ${type}`);
  t.teardown(() => provider.close());
  const clock = manualClock();
  const outcome: { text: string; fault: unknown; hasEnded: boolean } = { text: '', fault: undefined, hasEnded: false };
  const sink = {
    onPart(part: AnswerPart) {
      if (part.type === 'text') outcome.text += part.text;
      if (part.type === 'finish') outcome.hasEnded = true;
      return undefined;
    },
    onFault(fault: unknown) {
      Object.assign(outcome, { fault, hasEnded: true });
    },
  };
  let parts = 0;
  const call = async function* (signal: AbortSignal) {
    const request = { model: 'm', messages: [{ role: 'user', content: 'q' } as const] };
    for await (const part of provider.stream(request, signal)) {
      parts += 1;
      yield part;
    }
  };
  runAttempt(call, DEADLINES, clock, sink, new AbortController().signal);
  const { response } = await upstream.call(1);
  return { clock, outcome, response, parts: () => parts };
}

/** Writes bytes and waits until the service has read them: until a first part, if they have one. */
async function write(response: ServerResponse, bytes: string, hasArrived: () => boolean): Promise<void> {
  response.write(bytes);
  await until(hasArrived, 'the bytes have arrived');
}

for (const silent of SILENT) {
  t.test(`${silent.type}: ninety seconds of thinking, then the answer`, async (t) => {
    const { clock, outcome, response, parts } = await ask(t, silent);
    await write(response, silent.thinking, () => parts() > 0);
    for (let i = 0; i < 9; i++) clock.advance(10 * SECOND);
    t.equal(outcome.hasEnded, false, 'still waiting');
    response.end(silent.answer);
    await until(() => outcome.hasEnded, 'the answer has ended');
    t.match(outcome, { text: 'whole', fault: undefined });
  });

  t.test(`${silent.type}: thinking ends at its own deadline`, async (t) => {
    const { clock, outcome, response, parts } = await ask(t, silent);
    await write(response, silent.thinking, () => parts() > 0);
    // The report may come in a part of its own behind the thoughts.
    await new Promise((resolve) => setImmediate(resolve));
    clock.advance(DEADLINES.thinkingMs - 1);
    t.equal(outcome.hasEnded, false);
    clock.advance(2);
    t.match(outcome.fault, { code: 'upstream_timeout' });
  });

  t.test(`${silent.type}: pings are no sign of life`, async (t) => {
    const { clock, outcome, response, parts } = await ask(t, silent);
    const pings = setInterval(() => response.write(silent.ping), 1);
    t.teardown(() => clearInterval(pings));
    for (let i = 0; i < 59; i++) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      clock.advance(SECOND);
    }
    t.equal(outcome.hasEnded, false);
    clock.advance(2 * SECOND);
    t.match(outcome.fault, { code: 'upstream_timeout', stage: 'first_token' });
    t.equal(parts(), 0);
  });
}

t.test('Chat Completions: reasoning is content, and silence after it has the deadline of silence', async (t) => {
  const { clock, outcome, response, parts } = await ask(t, { type: 'openai-compatible' });
  await write(response, openai.chunk({ reasoning_content: 'Hm.' }), () => parts() > 0);
  await new Promise((resolve) => setImmediate(resolve));
  clock.advance(DEADLINES.idleMs + 1);
  t.match(outcome.fault, { code: 'upstream_timeout', stage: 'idle' });
});
