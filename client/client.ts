import type { Answer, AnswerEvent, AskOptions, EndEvent, ErrorEvent, Message, ReadOptions } from './types.ts';

/**
 * Asks Sluice and reads answers, in browsers, workers and Node. `POST /streams` with an idempotency key starts an
 * answer, so that a lost response asks nothing twice, and the URL in its response reads, resumes and stops it. Every
 * question goes this way: long questions and conversations do not fit into the URL of a GET.
 *
 * Pages load this code, so it is short: at most 3 KB when minified.
 */

export type * from './types.ts';

/** Failures in a row after which the client gives up. While the browser is offline, failures do not count. */
const MAX_FAILURES = 8;
const MAX_PAUSE_MS = 8_000;
/** Longest `retryAfter` in seconds that is waited for. Beyond it the page decides. */
const MAX_RETRY_AFTER = 60;
/** Silence after which a connection counts as dead: three heartbeats of the service. */
const SILENCE_MS = 45_000;
/** Failures in a row up to which a 401 asks for a new ticket. */
const MAX_TICKETS = 2;

/** The globals of a page; undefined in Node. */
const { location, navigator, addEventListener } = globalThis;

interface Fields extends Record<string, string> {
  id: string;
}

interface Internal {
  /** URL of an answer that has started. */
  readonly known?: string;
}

/** Reads an answer by its `url`, from its start: in another tab, or after a reload. */
export function read(url: string, options?: ReadOptions): Answer {
  return ask('', { ...options, known: url } as AskOptions);
}

/**
 * Asks a question, or continues a conversation.
 * @throws TypeError for a relative `url` outside of a page. Every other failure is an `error` event.
 */
export function ask(question: string | readonly Message[], options?: AskOptions): Answer;
export function ask(
  question: string | readonly Message[],
  {
    url = '',
    key = crypto.getRandomValues(new Uint32Array(4)).join('-'),
    ticket,
    signal,
    fetch: send = fetch,
    known,
    ...settings
  }: AskOptions & Internal = {},
): Answer {
  const base = new URL(`${url}/`, location?.href);
  const events: AnswerEvent[] = [];
  let connection = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let bearer: string | undefined;
  /** Id of the last event; empty before the first part. */
  let lastId = '';
  let last: EndEvent | ErrorEvent | undefined;
  let retryMs = 1_000;
  let failures = 0;

  const emit = (event: AnswerEvent) => {
    const { type } = event;
    if (last) return;
    if (type === 'delta') answer.text += event.content;
    if (type === 'error') last = event;
    else events.push(event);
    if (type === 'end') last = event;
    if (last) connection.abort();
    for (const name of [type, 'change']) answer.dispatchEvent(new CustomEvent(name, { detail: event }));
  };

  const failure = (message: string, code = 'unreachable') =>
    ({ type: 'error', code, message, retryable: true }) as ErrorEvent;

  /** Stops the answer at the service, if its URL is known. If it is still being started, this happens later. */
  const sendStop = () => {
    if (answer.url) request(answer.url.replace(/\?|$/, '/stop$&'), { method: 'POST', keepalive: true }).catch(() => {});
  };

  /** Sends a request. @throws an `error` event for a status that is not a success */
  const request = async (path: string | URL, init: RequestInit) => {
    const response = await send(new URL(path, base), init);
    const { status } = response;
    if (status < 300) return response;
    throw {
      ...failure(`Status ${status}`),
      ...(await response.json().catch(() => 0)).error,
      status,
      retryable: status === 429 || status > 499,
      retryAfter: +(response.headers.get('retry-after') as string),
    };
  };

  /** Reads until the connection ends. Decodes events by the rules of the HTML standard. */
  const readConnection = async () => {
    let rest: string | undefined = '';
    let fields: Fields = { id: lastId };
    const url = new URL(answer.url as string, base);
    url.searchParams.set('lastEventId', lastId);
    const { body } = await request(url, { signal: connection.signal });
    const reader = (body as ReadableStream<BufferSource>).pipeThrough(new TextDecoderStream()).getReader();
    while (!last) {
      clearTimeout(timer);
      timer = setTimeout(() => connection.abort(0), SILENCE_MS);
      const { value, done } = await reader.read();
      if (done) break;
      // A CR at the end may be half of a line end.
      const lines: string[] = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        const [, field, text] = /([^:]*):? ?(.*)/s.exec(line) as unknown as [string, string, string];
        fields[field] = field === 'data' && fields.data ? `${fields.data}\n${text}` : text;
        if (line) continue;
        const { id, event, data, retry } = fields;
        retryMs = +(retry as string) || retryMs;
        if (data && (!event || event === 'message')) {
          const parsed = JSON.parse(data);
          if (lastId) failures = 0;
          // The service has refused the question within a stream. Before the first part, the key asks again.
          else if (parsed.retryAfter && !known) throw parsed;
          emit(parsed);
        }
        // Before the first part there is nothing to continue.
        lastId = id.replace(/.*\.0$/, '');
        fields = { id };
      }
    }
  };

  const isMultiplexed = (entry: PerformanceEntry) =>
    +((entry as PerformanceResourceTiming).nextHopProtocol?.[1] as string) > 1 && entry.name.includes(base.host);

  const run = async () => {
    await 0; // The caller may listen, or stop, before anything is sent.
    const onAbort = () => emit(failure('Aborted', 'aborted'));
    signal?.addEventListener('abort', onAbort);
    if (signal?.aborted) onAbort();
    while (!last) {
      let problem = failure('No reply');
      let isFree = navigator?.onLine === false;
      connection = new AbortController();
      try {
        if (!answer.url) {
          bearer ??= await ticket?.();
          const response = await request('streams', {
            method: 'POST',
            headers: {
              'content-type': 'application/json',
              'idempotency-key': key,
              ...(bearer && { authorization: `Bearer ${bearer}` }),
            },
            body: JSON.stringify({
              [(question[0] as Message | undefined)?.role ? 'messages' : 'question']: question,
              ...settings,
            }),
          });
          answer.url = (await response.json()).url;
          if (last) sendStop();
        }
        // Over HTTP/1.1 a browser opens six connections to a server. The pages of one origin share four slots for
        // reading; two connections are left for questions, for stopping, and for the pages themselves. If all slots are
        // in use, readers go in turns: one takes the slot of another, which closes its connection, and after a pause
        // continues behind its last event in the same way. Every page reads its own answer, so that none depends on
        // another that is closed, killed or frozen. Without Web Locks, and over HTTP/2, nobody needs a slot.
        const locks = location && (await navigator.locks?.query().catch(() => undefined));
        if (!locks || performance.getEntries().some(isMultiplexed)) await readConnection();
        else {
          const held = JSON.stringify(locks.held);
          const slot = [0, 1, 2, 3].find((i) => !held.includes(`sluice${i}`)) ?? (Math.random() * 4) | 0;
          await navigator.locks.request(`sluice${slot}`, { steal: true }, readConnection);
        }
      } catch (error) {
        if ((error as ErrorEvent).type) problem = error as ErrorEvent;
        isFree ||= (error as Error).name === 'AbortError';
        connection.abort();
      }
      clearTimeout(timer);
      const { status, retryAfter = 0, retryable } = problem;
      const isExpired = status === 401 && ticket && failures < MAX_TICKETS;
      if (!isFree) failures++;
      if (!(retryable || isExpired) || retryAfter > MAX_RETRY_AFTER || failures > MAX_FAILURES) emit(problem);
      // The same key finds the same answer with a new ticket, or asks again after a refusal within a stream.
      if (isExpired || (retryAfter && !status)) {
        answer.url = known;
        bearer = undefined;
      }
      const random = Math.random();
      // A reader without a slot leaves the others some time to read.
      const waitMs = isFree ? 1_000 + random * 1_000 : Math.min(retryMs * 2 ** (failures - 1), MAX_PAUSE_MS) * random;
      const waiting = new AbortController();
      last ||
        (await new Promise<unknown>((wake) => {
          setTimeout(wake, isExpired ? 0 : retryAfter * 1_000 + waitMs);
          addEventListener?.('online', wake, waiting);
          answer.addEventListener('change', wake, waiting);
        }));
      waiting.abort();
    }
    if ('code' in last) throw Object.assign(new Error((last as ErrorEvent).message), last);
    return last;
  };

  const answer = Object.assign(new EventTarget(), {
    text: '',
    url: known,
    answer: run(),
    stop() {
      if (last) return;
      emit({ type: 'end', answer: answer.text, finishReason: 'stopped' });
      sendStop();
    },
    async *[Symbol.asyncIterator]() {
      try {
        for (let i = 0; events[i] || !last; ) {
          if (events[i]) yield events[i++];
          else await new Promise((wake) => answer.addEventListener('change', wake, { once: true }));
        }
        await answer.answer;
      } finally {
        answer.stop();
      }
    },
  });
  answer.answer.catch(() => {});
  return answer as unknown as Answer;
}
