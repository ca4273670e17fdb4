import { type ClientRequest, get } from 'node:http';
import { answerTo, type Question, textOf, tokenAt } from './question.ts';

/** One reader: checks an answer to the byte, and notes when its tokens arrived. */

export interface Reading {
  /** From the request to the first text, in milliseconds. */
  readonly firstTokenMs: number;
  /** From the upstream's write to our read, for each token, in milliseconds. */
  readonly delaysMs: readonly number[];
}

export interface Running {
  readonly done: Promise<Reading>;
  /** Stops reading without leaving. */
  pause(): void;
  cut(): void;
}

/** The service gave an error in place of the answer, or of the rest of it. */
export class AnswerFailed extends Error {
  readonly code: string;
  constructor(code: string, data: string) {
    super(`the answer failed: ${data}`);
    this.code = code;
  }
}

/** Text of an event of either form: Sluice's own, or a `chat.completion.chunk` passed through. */
export function deltaOf(data: string): string {
  if (data === '[DONE]') return '';
  const event = JSON.parse(data);
  if (event.type === 'error') throw new AnswerFailed(event.code, data);
  return (event.type === 'delta' ? event.content : event.choices?.[0]?.delta?.content) ?? '';
}

/** Fails at the first byte that differs, at one too many, and at one too few. */
export function createChecker(question: Pick<Question, 'tokens'>, onToken: (index: number) => void) {
  const answer = answerTo(question);
  let got = 0;
  let token = 0;
  let boundary = tokenAt(0).length;
  return {
    add(text: string): void {
      if (answer.slice(got, got + text.length) !== text) throw new Error(`the answer differs at unit ${got}`);
      got += text.length;
      while (token < question.tokens && boundary <= got) {
        onToken(token);
        token += 1;
        boundary += tokenAt(token).length;
      }
    },
    end(): void {
      if (got !== answer.length) throw new Error(`the answer has ${got} units of ${answer.length}`);
    },
  };
}

export function read(base: string, question: Question, sent: Float64Array): Running {
  const url = `${base}/ask/stream?question=${encodeURIComponent(textOf(question))}`;
  const started = performance.now();
  const delaysMs: number[] = [];
  let firstTokenMs = Number.NaN;
  let request: ClientRequest | undefined;
  let pause = () => {};
  const done = new Promise<Reading>((resolve, reject) => {
    const checker = createChecker(question, (index) => {
      const now = performance.now();
      if (index === 0) firstTokenMs = now - started;
      delaysMs.push(now - (sent[index] as number));
    });
    request = get(url, { agent: false, headers: { accept: 'text/event-stream' } }, (response) => {
      let rest = '';
      response.setEncoding('utf8');
      pause = () => response.pause();
      response.on('data', (text: string) => {
        try {
          const lines = (rest + text).split('\n');
          rest = lines.pop() as string;
          for (const line of lines) if (line.startsWith('data: ')) checker.add(deltaOf(line.slice(6)));
        } catch (error) {
          reject(error);
          request?.destroy();
        }
      });
      response.on('error', reject);
      response.on('end', () => {
        try {
          if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`);
          checker.end();
          resolve({ firstTokenMs, delaysMs });
        } catch (error) {
          reject(error);
        }
      });
    });
    request.on('error', reject);
  });
  return { done, pause: () => pause(), cut: () => request?.destroy() };
}
