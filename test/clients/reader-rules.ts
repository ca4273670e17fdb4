/**
 * Rules of SDKs of other languages, by their sources. They cannot be installed here, so each is one small function
 * over the bytes of a response.
 */

/** The bytes of a streamed answer, and how it ended. */
export interface Received {
  readonly body: string;
  /** True if the connection was closed before the last chunk. */
  readonly isCut: boolean;
}

/** Result for the caller: the text, and an error unless the SDK takes the answer for whole. */
export interface Outcome {
  readonly text: string;
  readonly error?: string;
}

interface ServerSentEvent {
  readonly event: string;
  readonly data: string;
}

const CUT = 'unexpected end of the response';

/**
 * Splits a body as most decoders do: an event at each blank line.
 * @param emitsEmpty true for decoders that emit an event also if there is no data
 */
function eventsOf(body: string, emitsEmpty: boolean): ServerSentEvent[] {
  const events: ServerSentEvent[] = [];
  let event = '';
  let data: string[] = [];
  for (const line of body.split('\n').slice(0, -1)) {
    if (line === '') {
      if (data.length > 0 || emitsEmpty) events.push({ event, data: data.join('\n') });
      event = '';
      data = [];
    } else if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''));
    else if (line.startsWith('event:')) event = line.slice(6).trim();
  }
  return events;
}

interface Chunk {
  readonly error?: { readonly message: string };
  readonly choices?: readonly { readonly delta: { readonly content?: string } }[];
}

const textOf = ({ choices }: Chunk) => choices?.[0]?.delta.content ?? '';

/** Reads chunks until `[DONE]`; an `error` is raised. */
function readChunks({ body, isCut }: Received, emitsEmpty: boolean): Outcome {
  let text = '';
  for (const { data } of eventsOf(body, emitsEmpty)) {
    if (data.startsWith('[DONE]')) return { text };
    let chunk: Chunk;
    try {
      chunk = JSON.parse(data);
    } catch (error) {
      return { text, error: String(error) };
    }
    if (chunk.error) return { text, error: chunk.error.message };
    text += textOf(chunk);
  }
  return isCut ? { text, error: CUT } : { text };
}

/** LangChain4j 1.19, `StreamingRequestExecutor`: only events named `error` are errors, and every end is the end. */
function langchain4j({ body, isCut }: Received): Outcome {
  let text = '';
  for (const { event, data } of eventsOf(body, false)) {
    if (event === 'error') return { text, error: data };
    if (data !== '[DONE]') text += textOf(JSON.parse(data));
  }
  return isCut ? { text, error: CUT } : { text };
}

/** async-openai 0.43: every event has to be a chunk. */
function asyncOpenai({ body, isCut }: Received): Outcome {
  let text = '';
  for (const { data } of eventsOf(body, false)) {
    if (data === '[DONE]') return { text };
    const chunk: Chunk = JSON.parse(data);
    if (chunk.choices === undefined) return { text, error: `missing field: ${data}` };
    text += textOf(chunk);
  }
  return isCut ? { text, error: CUT } : { text };
}

/**
 * go-openai 1.43, `stream_reader.go`: lines that are no data are collected, and the line of an error is added. The
 * collection has to be JSON.
 */
function goOpenai({ body, isCut }: Received): Outcome {
  let text = '';
  let collected = '';
  let hasError = false;
  const failure = () => {
    try {
      return (JSON.parse(collected) as Chunk).error?.message;
    } catch {
      return undefined;
    }
  };
  for (const raw of body.split('\n')) {
    if (hasError) return { text, error: failure() ?? 'unexpected end of JSON input' };
    const line = raw.trim();
    if (line.startsWith('data: {"error":')) hasError = true;
    if (hasError || !line.startsWith('data: ')) {
      collected += hasError ? line.replace('data: ', '') : line;
      continue;
    }
    if (line === 'data: [DONE]') return { text };
    text += textOf(JSON.parse(line.slice(6)));
  }
  const error = failure() ?? (isCut ? CUT : undefined);
  return error === undefined ? { text } : { text, error };
}

/** The readers by the name of the SDK. */
export const READERS: Readonly<Record<string, (received: Received) => Outcome>> = {
  'openai for Python': (received) => readChunks(received, false),
  'openai-go 3.43': (received) => readChunks(received, false),
  'openai-go 3.42': (received) => readChunks(received, true),
  'go-openai': goOpenai,
  LangChain4j: langchain4j,
  'async-openai': asyncOpenai,
};

/** A response that is not a stream. */
export interface Refusal {
  readonly status: number;
  readonly shouldRetry: string | null;
}

const byHeader = ({ status, shouldRetry }: Refusal) =>
  shouldRetry === null ? [408, 409, 429].includes(status) || status >= 500 : shouldRetry === 'true';

/** Says whether the SDK sends the request again. */
export const REPEATS: Readonly<Record<string, (refusal: Refusal) => boolean>> = {
  'openai for Python': byHeader,
  'openai-go': byHeader,
  'go-openai': () => false,
  // `ExceptionMapper`: time-outs, rate limits and server errors are retriable.
  LangChain4j: ({ status }) => status === 408 || status === 429 || status >= 500,
  'async-openai': ({ status }) => status === 429 || status >= 500,
};
