import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { load } from './packages.ts';

/** Real SDKs for OpenAI's API, each behind one function that asks and says what its caller sees. */

/** One question to one service. */
export interface Request {
  /** Base URL with `/v1`. */
  readonly baseURL: string;
  readonly model: string;
  readonly apiKey?: string;
  readonly stream: boolean;
  /** Number of times that the SDK repeats a failed request; its own default if absent. */
  readonly maxRetries?: number | undefined;
}

/** Result for the caller of an SDK. */
export interface Seen {
  /** Text that was received. */
  readonly text: string;
  /** The error that was thrown; undefined if the SDK takes the answer for whole. */
  readonly error: { readonly status: number | undefined; readonly message: string } | undefined;
}

export type Ask = (request: Request) => Promise<Seen>;

/** Asks with one SDK, without a catch. `onText` gets the text as it arrives. */
type Run = (request: Request, onText: (text: string) => void) => Promise<void>;

// The packages have no types here: each version of a package would need its own.
// biome-ignore lint/suspicious/noExplicitAny: see above
type Any = any;

const PROMPT = [{ role: 'user', content: 'q' }];

const openai =
  (name: string): Run =>
  async ({ stream, model, baseURL, apiKey = 'any', maxRetries }, onText) => {
    const { default: OpenAI } = await load<Any>(name);
    const client = new OpenAI({ baseURL, apiKey, ...(maxRetries !== undefined && { maxRetries }) });
    const answer = await client.chat.completions.create({ model, messages: PROMPT, stream });
    if (!stream) return onText(answer.choices[0].message.content);
    for await (const { choices } of answer) onText(choices[0]?.delta.content ?? '');
  };

const langchain: Run = async ({ stream, model, baseURL, apiKey = 'any', maxRetries }, onText) => {
  const { ChatOpenAI } = await load<Any>('@langchain/openai');
  const options = { ...(maxRetries !== undefined && { maxRetries }), configuration: { baseURL } };
  const chat = new ChatOpenAI({ model, apiKey, ...options });
  if (!stream) return onText((await chat.invoke('q')).content);
  for await (const { content } of await chat.stream('q')) onText(content);
};

const llamaindex: Run = async ({ stream, model, baseURL, apiKey = 'any', maxRetries }, onText) => {
  const { OpenAI } = await load<Any>('@llamaindex/openai');
  const llm = new OpenAI({ model, apiKey, baseURL, ...(maxRetries !== undefined && { maxRetries }) });
  const answer = await llm.chat({ messages: PROMPT, stream });
  if (!stream) return onText(answer.message.content);
  for await (const { delta } of answer) onText(delta);
};

const ai =
  (name: string): Run =>
  async ({ stream, model, baseURL, apiKey = 'any', maxRetries }, onText) => {
    const { generateText, streamText } = await load<Any>(name);
    const options = {
      model: createOpenAICompatible({ name: 'sluice', baseURL, apiKey }).chatModel(model),
      prompt: 'q',
      ...(maxRetries !== undefined && { maxRetries }),
    };
    if (!stream) return onText((await generateText(options)).text);
    for await (const part of streamText({ ...options, onError: () => {} }).fullStream) {
      if (part.type === 'text-delta') onText(part.text);
      if (part.type === 'error') throw part.error;
    }
  };

const RUNS: Readonly<Record<string, Run>> = {
  'openai 6': openai('openai'),
  'openai 7': openai('openai7'),
  LangChain: langchain,
  LlamaIndex: llamaindex,
  'ai 6': ai('ai6'),
  'ai 7': ai('ai'),
};

/** The SDKs by name. */
export const SDKS: Readonly<Record<string, Ask>> = Object.fromEntries(
  Object.entries(RUNS).map(([name, run]): [string, Ask] => [
    name,
    async (request) => {
      let text = '';
      try {
        await run(request, (more) => {
          text += more;
        });
        return { text, error: undefined };
      } catch (error) {
        return { text, error: describe(error) };
      }
    },
  ]),
);

/** Returns the status and the message of any SDK's error. The AI SDK wraps the last one after its retries. */
function describe(thrown: unknown): NonNullable<Seen['error']> {
  const { lastError, ...own } = Object(thrown) as { lastError?: unknown };
  const error = Object(lastError ?? thrown) as { status?: number; statusCode?: number; message?: unknown };
  return { status: error.status ?? error.statusCode, message: String(error.message ?? JSON.stringify(own)) };
}
