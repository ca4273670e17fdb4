import type { Test } from 'tap';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import type { Provider, StreamPart } from '../../providers/types.ts';
import { startUpstream } from '../upstream.ts';
import { add, type Collected, empty } from './collect.ts';
import { OPTIONS } from './options.ts';

/** Plays responses to providers of every API over a real connection, and builds the responses. */

/** One provider type for each wire format, and Bella, whose format differs a little. */
export type Dialect = 'openai-compatible' | 'bella' | 'anthropic' | 'gemini' | 'ollama';

export interface Played extends Collected {
  /** All parts but `finishing`, which says only that the finish part is near. */
  readonly parts: StreamPart[];
  /** Number of `finishing` parts. */
  finishing: number;
}

export interface PlayOptions {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Answers one call with `pieces` and returns what the provider makes of them. */
export type Play = (
  dialect: Dialect,
  pieces: string | readonly (string | Buffer)[],
  options?: PlayOptions,
) => Promise<Played>;

/** Starts one upstream for many calls. */
export async function startDialects(t: Test): Promise<Play> {
  let pieces: readonly (string | Buffer)[] = [];
  let options: PlayOptions = {};
  let contentType = '';
  const { url } = await startUpstream(t, async ({ response }) => {
    response.writeHead(options.status ?? 200, { 'content-type': contentType, ...options.headers });
    for (const piece of pieces) {
      response.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    response.end();
  });
  const providers = new Map<Dialect, Provider>();
  const providerOf = (dialect: Dialect): Provider => {
    let provider = providers.get(dialect);
    if (provider === undefined) {
      provider = PROVIDER_TYPES[dialect]?.create({ ...OPTIONS, name: dialect, baseUrl: `${url}/v1` });
      if (provider === undefined) throw new Error(`no provider type ${dialect}`);
      providers.set(dialect, provider);
    }
    return provider;
  };
  t.teardown(() => Promise.all([...providers.values()].map((provider) => provider.close())));

  return async (dialect, played, playOptions = {}) => {
    pieces = typeof played === 'string' ? [played] : played;
    options = playOptions;
    contentType = dialect === 'ollama' ? 'application/x-ndjson' : 'text/event-stream';
    const outcome: Played = { ...empty(), parts: [], finishing: 0 };
    const messages = [{ role: 'user', content: 'q' }] as const;
    try {
      for await (const part of providerOf(dialect).stream({ model: 'm', messages }, new AbortController().signal)) {
        if (part.type === 'finishing') outcome.finishing += 1;
        else outcome.parts.push(part);
        add(outcome, part);
      }
    } catch (error) {
      outcome.error = error;
    }
    return outcome;
  };
}

/** Returns SSE events with these documents. */
export const events = (...documents: unknown[]): string =>
  documents.map((document) => `data: ${JSON.stringify(document)}\n\n`).join('');

/** Returns NDJSON lines with these documents. */
export const lines = (...documents: unknown[]): string =>
  documents.map((document) => `${JSON.stringify(document)}\n`).join('');

export const DONE = 'data: [DONE]\n\n';

/** Chat Completions. */
export const openai = {
  chunk: (delta: unknown, finish: string | null = null, extra: object = {}) => ({
    object: 'chat.completion.chunk',
    choices: [{ index: 0, delta, finish_reason: finish }],
    ...extra,
  }),
  usage: (usage: unknown) => ({ object: 'chat.completion.chunk', choices: [], usage }),
  /** A complete answer: text, a finish reason, `[DONE]`. */
  answer: (finish: string, ...before: object[]) =>
    events(openai.chunk({ role: 'assistant', content: 'x' }), ...before, openai.chunk({}, finish)) + DONE,
};

/** Anthropic Messages. */
export const anthropic = {
  start: (usage?: unknown) => ({
    type: 'message_start',
    message: { role: 'assistant', content: [], ...(usage !== undefined && { usage }) },
  }),
  block: (index: number, block: object) => ({ type: 'content_block_start', index, content_block: block }),
  delta: (index: number, delta: object) => ({ type: 'content_block_delta', index, delta }),
  stop: (index: number) => ({ type: 'content_block_stop', index }),
  end: (reason: string | null, usage?: unknown) => [
    { type: 'message_delta', delta: { stop_reason: reason }, ...(usage !== undefined && { usage }) },
    { type: 'message_stop' },
  ],
  /** The events of one text block. */
  text: (text: string) => [
    anthropic.block(0, { type: 'text', text: '' }),
    anthropic.delta(0, { type: 'text_delta', text }),
    anthropic.stop(0),
  ],
  answer: (finish: string) => events(anthropic.start(), ...anthropic.text('x'), ...anthropic.end(finish)),
};

/** Gemini `streamGenerateContent`. */
export const gemini = {
  chunk: (parts: unknown[], finishReason?: string, extra: object = {}) => ({
    candidates: [{ index: 0, content: { role: 'model', parts }, ...(finishReason && { finishReason }) }],
    ...extra,
  }),
  answer: (finish: string) => events(gemini.chunk([{ text: 'x' }]), gemini.chunk([{ text: '' }], finish)),
};

/** Ollama `/api/chat`. */
export const ollama = {
  line: (message: object) => ({ message: { role: 'assistant', content: '', ...message }, done: false }),
  end: (reason: string | null, extra: object = {}) => ({
    message: { role: 'assistant', content: '' },
    done: true,
    ...(reason !== null && { done_reason: reason }),
    ...extra,
  }),
  answer: (finish: string) => lines(ollama.line({ content: 'x' }), ollama.end(finish)),
};
