/** What the load asks, and what the right answer is, to the byte. Pure. */

export interface Question {
  readonly id: string;
  readonly tokens: number;
  /** Milliseconds from token to token; 0 is as fast as they are read. */
  readonly gapMs: number;
}

const WORDS = [
  'Hello',
  ' world',
  ',',
  ' the',
  ' stream',
  'ing',
  ' answer',
  ' 你好',
  '世界',
  ' "quoted"',
  '\n\n',
  ' 🚀',
  ' token',
  's',
  ' `code`',
  ' back\\slash',
];

export function tokenAt(i: number): string {
  return WORDS[i % WORDS.length] as string;
}

export function answerTo({ tokens }: Pick<Question, 'tokens'>): string {
  let answer = '';
  for (let i = 0; i < tokens; i++) answer += tokenAt(i);
  return answer;
}

export function textOf({ id, tokens, gapMs }: Question): string {
  return `bench-${tokens}-${gapMs}-${id}-`;
}

export function parseQuestion(text: string): Question | undefined {
  const [, tokens, gapMs, id] = /bench-(\d+)-(\d+)-([A-Za-z0-9]+)-/.exec(text) ?? [];
  return id === undefined ? undefined : { id, tokens: Number(tokens), gapMs: Number(gapMs) };
}

/** As long as a real chunk, since parsing it is part of the work. */
const SHELL = {
  id: 'chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT',
  object: 'chat.completion.chunk',
  created: 1741569952,
  model: 'gpt-4.1-2025-04-14',
  service_tier: 'default',
  system_fingerprint: 'fp_44709d6fcb',
};

export function chunkOf(content: string): string {
  return `data: ${JSON.stringify({ ...SHELL, choices: [{ index: 0, delta: { content }, logprobs: null, finish_reason: null }] })}\n\n`;
}

export const DONE = `data: ${JSON.stringify({ ...SHELL, choices: [{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }] })}\n\ndata: [DONE]\n\n`;
