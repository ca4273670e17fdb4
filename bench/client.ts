import { type ClientRequest, request as send } from 'node:http';
import { expectedAnswer, type Question, questionText, tokenAt } from './question.ts';

/** One reader: compares an answer with the expected one byte by byte, and records the arrival of its tokens. */

/** Times of one complete answer. */
export interface StreamTimings {
  /** Milliseconds from the request to the first text. */
  readonly firstTokenMs: number;
  /** Milliseconds from the write by the upstream to the read by this reader, for each token. */
  readonly delaysMs: readonly number[];
}

/** APIs of the service that a reader can use: its own, and those of OpenAI. */
export type Api = 'ask' | 'chat' | 'responses';

/** Parts of a request that depend on the service. */
export interface Access {
  /** `ask` by default. */
  readonly api?: Api;
  /** Model in the body; undefined for the default model of the service. */
  readonly model?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A stream that is being read. */
export interface OpenStream {
  /** Rejects if the answer fails or differs from the expected one. */
  readonly done: Promise<StreamTimings>;
  /** Stops reading but keeps the connection. */
  pause(): void;
  disconnect(): void;
}

/** The service sent an error instead of the answer or of its rest. */
export class AnswerFailed extends Error {
  readonly code: string;
  constructor(code: string, data: string) {
    super(`the answer failed: ${data}`);
    this.code = code;
  }
}

/** Tells an answer that was refused because of the load from one that failed. */
export function isRefusal(error: unknown): boolean {
  return error instanceof AnswerFailed && ['overloaded', '429', '503'].includes(error.code);
}

/**
 * Returns the text of an event: one of Sluice, or a `chat.completion.chunk` that the proxy passes through.
 * @throws AnswerFailed for an error event
 */
export function deltaOf(data: string): string {
  if (data === '[DONE]') return '';
  const event = JSON.parse(data);
  if (event.type === 'error') throw new AnswerFailed(event.code, data);
  if (event.type === 'response.failed') throw new AnswerFailed(event.response.error.code, data);
  if (event.type === 'response.output_text.delta') return event.delta;
  return (event.type === 'delta' ? event.content : event.choices?.[0]?.delta?.content) ?? '';
}

/** Creates a checker that throws on the first different character, on extra text and on missing text. */
export function createChecker(question: Pick<Question, 'tokens'>, onToken: (index: number) => void) {
  const answer = expectedAnswer(question);
  let received = 0;
  let tokenIndex = 0;
  let tokenEnd = tokenAt(0).length;
  return {
    add(text: string): void {
      if (answer.slice(received, received + text.length) !== text) {
        throw new Error(`the answer differs at character ${received}`);
      }
      received += text.length;
      while (tokenIndex < question.tokens && tokenEnd <= received) {
        onToken(tokenIndex);
        tokenIndex += 1;
        tokenEnd += tokenAt(tokenIndex).length;
      }
    },
    end(): void {
      if (received !== answer.length) {
        throw new Error(`the answer has ${received} of ${answer.length} characters`);
      }
    },
  };
}

/** Returns the path of a question, and its body unless it is in the path. */
function requestOf({ api, model }: Access, question: Question): { path: string; body?: string } {
  const text = questionText(question);
  if (api === 'chat') {
    const messages = [{ role: 'user', content: text }];
    return { path: '/v1/chat/completions', body: JSON.stringify({ model, messages, stream: true }) };
  }
  if (api === 'responses') return { path: '/v1/responses', body: JSON.stringify({ model, input: text, stream: true }) };
  return { path: `/ask/stream?question=${encodeURIComponent(text)}` };
}

/**
 * Asks a question and reads its answer.
 * @param sentAt times at which the upstream wrote each token, in `performance.now()` milliseconds
 */
export function openStream(baseUrl: string, question: Question, sentAt: Float64Array, access: Access = {}): OpenStream {
  const { path, body } = requestOf(access, question);
  const startedAt = performance.now();
  const delaysMs: number[] = [];
  let firstTokenMs = Number.NaN;
  let request: ClientRequest | undefined;
  let pause = () => {};
  const done = new Promise<StreamTimings>((resolve, reject) => {
    const checker = createChecker(question, (index) => {
      const now = performance.now();
      if (index === 0) firstTokenMs = now - startedAt;
      delaysMs.push(now - (sentAt[index] as number));
    });
    const headers = {
      accept: 'text/event-stream',
      ...access.headers,
      ...(body !== undefined && { 'content-type': 'application/json' }),
    };
    const method = body === undefined ? 'GET' : 'POST';
    request = send(baseUrl + path, { agent: false, method, headers }, (response) => {
      let incompleteLine = '';
      response.setEncoding('utf8');
      pause = () => response.pause();
      response.on('data', (text: string) => {
        try {
          const lines = (incompleteLine + text).split('\n');
          incompleteLine = lines.pop() as string;
          for (const line of lines) if (line.startsWith('data: ')) checker.add(deltaOf(line.slice(6)));
        } catch (error) {
          reject(error);
          request?.destroy();
        }
      });
      response.on('error', reject);
      response.on('end', () => {
        try {
          if (response.statusCode !== 200) {
            throw new AnswerFailed(String(response.statusCode), `status ${response.statusCode}`);
          }
          checker.end();
          resolve({ firstTokenMs, delaysMs });
        } catch (error) {
          reject(error);
        }
      });
    });
    request.on('error', reject);
    request.end(body);
  });
  return { done, pause: () => pause(), disconnect: () => request?.destroy() };
}
