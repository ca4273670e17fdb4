import t from 'tap';
import { bearer, serve, sha256, until, writeConfig } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { type Call, silent, startUpstream } from '../upstream.ts';
import { FAILURES, MAX_CHARS } from './failures.ts';
import { noClients } from './packages.ts';
import { SDKS } from './sdks.ts';

/**
 * Every SDK × every failure: the number of calls to the provider, and what the caller sees. One call where asking
 * again cannot help, and never a cut answer that looks whole.
 */

/** SDKs that know `x-should-retry`. The others repeat by the status. */
const OBEYS_HEADER: ReadonlySet<string> = new Set(['openai 6', 'openai 7', 'LlamaIndex']);
/** Repetitions of the other SDKs in rows where they repeat. Their defaults take up to a minute. */
const RETRIES = 1;
const AT_A_TIME = 16;

interface Cell {
  readonly sdk: string;
  readonly failure: string;
  readonly stream: boolean;
  readonly id: string;
}

const CELLS: readonly Cell[] = Object.keys(SDKS).flatMap((sdk) =>
  Object.keys(FAILURES).flatMap((failure) =>
    [true, false].map((stream) => ({ sdk, failure, stream, id: `${sdk} ${failure} ${stream}`.replace(/\W/g, '-') })),
  ),
);

t.test(
  'SDK × failure: calls of the provider, and what the caller sees',
  { skip: noClients, timeout: 195_000 },
  async (t) => {
    const callsOf = new Map<string, Call[]>(CELLS.map(({ id }) => [id, []]));
    const upstream = await startUpstream(t, (call) => {
      const [, id = ''] = (call.request.url ?? '').split('/');
      callsOf.get(id)?.push(call);
      const cell = CELLS.find((one) => one.id === id) as Cell;
      FAILURES[cell.failure]?.answer(call.response);
    });
    const provider = ({ id }: Cell) => [
      id,
      { type: 'openai-compatible', baseUrl: `${upstream.url}/${id}/v1`, apiKeys: ['k'] },
    ];
    const model = ({ id, failure }: Cell) => ({
      name: id,
      targets: [{ provider: id, model: 'm' }],
      ...(failure === 'time-out' && { firstTokenMs: 1_500 }),
    });
    const config = { providers: Object.fromEntries(CELLS.map(provider)), models: CELLS.map(model) };
    const { url } = await serve(t, {
      env: {
        CONFIG_FILE: writeConfig(t, JSON.stringify(config)),
        STREAM_MAX_CHARS: String(MAX_CHARS),
        // The status is held back so long: also on a busy machine until the failure has come.
        STREAM_HEARTBEAT_MS: '60000',
      },
    });

    const check = async ({ sdk, failure: name, stream, id }: Cell) => {
      const failure = FAILURES[name] as (typeof FAILURES)[string];
      const isRepeated = !failure.isPermanent && !OBEYS_HEADER.has(sdk);
      const maxRetries = isRepeated ? RETRIES : undefined;
      const seen = await SDKS[sdk]?.({ baseURL: `${url}/v1`, model: id, stream, maxRetries });
      const title = `${sdk}, ${name}, ${stream ? 'streamed' : 'whole'}`;
      t.ok(seen?.error, `${title}: the caller sees an error`);
      t.notMatch(seen?.error?.message, /SECRET/, `${title}: not the text of the provider`);
      const hasText = stream && failure.text !== undefined;
      if (hasText) t.equal(seen?.text, failure.text, `${title}: the text before the failure`);
      else if (!(stream && name === 'too long')) t.equal(seen?.error?.status, failure.status, `${title}: status`);
      // LangChain does not repeat a 429 without a delay.
      const requests = isRepeated && !hasText && !(sdk === 'LangChain' && failure.status === 429) ? 1 + RETRIES : 1;
      const calls = callsOf.get(id)?.length ?? 0;
      if (failure.isPermanent) t.equal(calls, 1, `${title}: one call`);
      // The budget of retries may be used up, and on a busy machine the time is over before the call has arrived.
      else t.ok((calls >= 1 || name === 'time-out') && calls <= requests * failure.tries, `${title}: ${calls} calls`);
    };
    // Not all at once: the times of a busy machine would be long.
    const waiting = [...CELLS];
    const work = async () => {
      for (let cell = waiting.shift(); cell; cell = waiting.shift()) await check(cell);
    };
    await Promise.all(Array.from({ length: AT_A_TIME }, work));
  },
);

t.test('SDK × refusal of the service: an error, and no call', { skip: noClients }, async (t) => {
  const upstream = await startUpstream(t, silent);
  const key = (name: string) => ({ name, sha256: sha256(name), requestsPerMinute: name === 'slow' ? 1 : 100 });
  const config = {
    providers: { p: { type: 'openai-compatible', baseUrl: `${upstream.url}/v1`, models: ['m'] } },
    keys: [key('slow'), key('fast')],
  };
  const { url } = await serve(t, {
    env: { CONFIG_FILE: writeConfig(t, JSON.stringify(config)), MAX_GENERATIONS: '1' },
  });
  const running = new AbortController();
  const body = JSON.stringify({ question: 'q' });
  const headers = { ...bearer('fast'), 'content-type': 'application/json' };
  fetch(`${url}/ask/stream`, { method: 'POST', headers, body, signal: running.signal }).catch(() => {});
  await upstream.call(1);
  // Uses up the only request of this key.
  await postJson(`${url}/streams`, { question: 'q' }, bearer('slow'));
  for (const [sdk, ask] of Object.entries(SDKS)) {
    for (const stream of [true, false]) {
      const request = { baseURL: `${url}/v1`, model: 'p/m', stream, maxRetries: 0 };
      const overload = await ask({ ...request, apiKey: 'fast' });
      t.equal(overload.error?.status, 503, `${sdk}: overload`);
      const limited = await ask({ ...request, apiKey: 'slow' });
      t.equal(limited.error?.status, 429, `${sdk}: rate limit`);
    }
  }
  t.equal(upstream.calls.length, 1, 'no call for a refused request');
  running.abort();
  await until(() => upstream.calls[0]?.closedAt !== undefined, 'the running call has ended');
});
