/** The questions of a load and their expected answers. Pure. */

/** A question that tells the upstream how to answer. */
export interface Question {
  readonly id: string;
  readonly tokens: number;
  /** Milliseconds between two tokens; 0 sends them as fast as they are read. */
  readonly gapMs: number;
}

const TOKENS = [
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
  return TOKENS[i % TOKENS.length] as string;
}

export function expectedAnswer({ tokens }: Pick<Question, 'tokens'>): string {
  let answer = '';
  for (let i = 0; i < tokens; i++) answer += tokenAt(i);
  return answer;
}

/** Returns the text that is sent to the service. */
export function questionText({ id, tokens, gapMs }: Question): string {
  return `bench-${tokens}-${gapMs}-${id}-`;
}

/** Finds a question in the text of a request; undefined if there is none. */
export function parseQuestion(text: string): Question | undefined {
  const [, tokens, gapMs, id] = /bench-(\d+)-(\d+)-([A-Za-z0-9]+)-/.exec(text) ?? [];
  return id === undefined ? undefined : { id, tokens: Number(tokens), gapMs: Number(gapMs) };
}

/** Fields of every chunk. A chunk is as long as a real one, because parsing is part of the cost. */
const CHUNK_FIELDS = {
  id: 'chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT',
  object: 'chat.completion.chunk',
  created: 1741569952,
  model: 'gpt-4.1-2025-04-14',
  service_tier: 'default',
  system_fingerprint: 'fp_44709d6fcb',
};

export function chunkOf(content: string): string {
  return `data: ${JSON.stringify({ ...CHUNK_FIELDS, choices: [{ index: 0, delta: { content }, logprobs: null, finish_reason: null }] })}\n\n`;
}

/** The last events of an answer. */
export const FINAL_EVENTS = `data: ${JSON.stringify({ ...CHUNK_FIELDS, choices: [{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }] })}\n\ndata: [DONE]\n\n`;
