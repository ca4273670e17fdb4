/** What each operation is for, and what it answers beside its schema. The reference shows nothing without a line here. */

export interface Operation {
  readonly tag: 'Ask' | 'Streams' | 'OpenAI' | 'Vercel AI SDK' | 'Identity' | 'Operation';
  readonly summary: string;
  readonly description?: string;
  /** The schema of its events. */
  readonly events?: 'StreamEvent' | 'ChatCompletionChunk' | 'UiMessageChunk';
  /** What else it answers when all is well. */
  readonly answers?: Readonly<Record<string, string>>;
  /** Statuses of refusals. */
  readonly refuses: readonly number[];
}

const ASKS = [400, 401, 403, 404, 406, 408, 409, 413, 415, 429, 431, 500, 503];
const READS = [400, 401, 404, 406, 414, 429, 431, 500, 503];

export const OPERATIONS: Readonly<Record<string, Operation>> = {
  'get /ask/stream': {
    tag: 'Ask',
    summary: 'Ask and read, for a plain EventSource; with Last-Event-ID, go on where a connection was cut',
    description:
      'An EventSource (`Accept: text/event-stream`) that is refused for now (429, 503) gets one `error` event with 200 instead, since it would give up for good.',
    events: 'StreamEvent',
    answers: { 204: 'Nothing is left behind this Last-Event-ID: a browser stops reconnecting' },
    refuses: [...READS, 403, 409],
  },
  'post /ask/stream': {
    tag: 'Ask',
    summary: 'The same for `fetch`: a question, or a conversation, and how to answer',
    events: 'StreamEvent',
    answers: { 204: 'Nothing is left behind this Last-Event-ID' },
    refuses: ASKS,
  },
  'post /streams': {
    tag: 'Streams',
    summary: 'Start an answer, and read it at the URL that comes back',
    refuses: ASKS,
  },
  'get /streams/{id}': {
    tag: 'Streams',
    summary: 'Read a stream from its start, or behind Last-Event-ID',
    events: 'StreamEvent',
    answers: { 204: 'Nothing is left behind this Last-Event-ID' },
    refuses: READS,
  },
  'delete /streams/{id}': {
    tag: 'Streams',
    summary: 'End an answer now',
    answers: { 204: 'It has ended' },
    refuses: [401, 404, 429, 503],
  },
  'post /streams/{id}/stop': {
    tag: 'Streams',
    summary: 'The same for `navigator.sendBeacon`; the body is ignored',
    answers: { 204: 'It has ended' },
    refuses: [401, 404, 429, 503],
  },
  'post /v1/chat/completions': {
    tag: 'OpenAI',
    summary: 'Chat Completions, streamed or whole: the official SDKs work unchanged',
    events: 'ChatCompletionChunk',
    refuses: [...ASKS, 422, 502, 504],
  },
  'get /v1/models': { tag: 'OpenAI', summary: 'Public names of models', refuses: [401, 429] },
  'get /v1/models/{id}': { tag: 'OpenAI', summary: 'One model', refuses: [401, 404, 429] },
  'post /ui/chat': {
    tag: 'Vercel AI SDK',
    summary: "The UI message stream for `useChat`'s DefaultChatTransport",
    events: 'UiMessageChunk',
    refuses: ASKS,
  },
  'get /ui/chat/{id}/stream': {
    tag: 'Vercel AI SDK',
    summary: 'A conversation’s answer that still runs, after a reload',
    events: 'UiMessageChunk',
    answers: { 204: 'None runs' },
    refuses: [400, 401, 429, 503],
  },
  'post /tickets': {
    tag: 'Identity',
    summary: 'A ticket with which an EventSource may ask one question within a minute',
    refuses: [400, 401, 403, 404, 415, 429],
  },
  'get /livez': { tag: 'Operation', summary: 'The process works', refuses: [] },
  'get /readyz': {
    tag: 'Operation',
    summary: 'Questions may be sent here; `?verbose` shows circuit breakers',
    answers: { 503: 'Not now: it starts, drains, or waits for Redis' },
    refuses: [],
  },
  'get /metrics': { tag: 'Operation', summary: 'Metrics in the form of Prometheus', refuses: [] },
};
