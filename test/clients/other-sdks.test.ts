import t from 'tap';
import { bellaAt, serve, until, writeConfig } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { type Call, DONE, type Script, STOP, sse, startUpstream, text } from '../upstream.ts';
import { FAILURES, MAX_CHARS } from './failures.ts';
import { READERS, REPEATS, type Received } from './reader-rules.ts';

/** SDKs of other languages, by the rules of their sources, on the bytes of the service. */

const HEARTBEAT_MS = 20;
/** A chunk without content: the first one has the role. */
const HEARTBEAT = /"delta":\{("role":"assistant","content":"")?\}/g;
const MESSAGES = [{ role: 'user', content: 'q' }];

/** Sends each event when the client has received another heartbeat. */
const pausing =
  (received: { body: string }, events: readonly string[]): Script =>
  async ({ response }: Call) => {
    const count = () => received.body.match(HEARTBEAT)?.length ?? 0;
    sse(response);
    for (const event of events) {
      const before = count();
      await until(() => count() > before, 'a heartbeat has come');
      response.write(event);
    }
    response.end();
  };

/** Reads a streamed answer as it is, and keeps its text until now in `received`. */
async function receive(url: string, received: { body: string }): Promise<Received> {
  const response = await postJson(`${url}/v1/chat/completions`, { messages: MESSAGES, stream: true });
  const utf8 = new TextDecoder();
  try {
    for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
      received.body += utf8.decode(bytes, { stream: true });
    }
    return { ...received, isCut: false };
  } catch {
    return { ...received, isCut: true };
  }
}

t.test('a whole answer and a cut one with heartbeats between all events', async (t) => {
  const cases: [name: string, events: string[], expected: string, isWhole: boolean][] = [
    ['whole', [text('one '), text('two'), STOP, DONE], 'one two', true],
    ['error', [text('one '), 'data: {"error":{"message":"x","type":"server_error"}}\n\n'], 'one ', false],
    ['cut', [text('one ')], 'one ', false],
  ];
  for (const [name, events, expected, isWhole] of cases) {
    const progress = { body: '' };
    const upstream = await startUpstream(t, pausing(progress, events));
    const env = bellaAt(upstream.url, { STREAM_HEARTBEAT_MS: String(HEARTBEAT_MS), STREAM_FLUSH_MS: '0' });
    const received = await receive((await serve(t, { env })).url, progress);
    for (const [sdk, read] of Object.entries(READERS)) {
      const outcome = read(received);
      t.equal(outcome.text, expected, `${sdk}, ${name}: the text`);
      if (isWhole) t.equal(outcome.error, undefined, `${sdk}, ${name}: no error`);
      else t.ok(outcome.error, `${sdk}, ${name}: an error`);
      const isReadable = sdk !== 'LangChain4j' && sdk !== 'async-openai';
      if (!isWhole && isReadable) t.match(outcome.error, /^(The provider|The answer)/, `${sdk}, ${name}: our message`);
    }
  }
});

t.test('a failure that a repetition cannot fix is repeated by nobody', async (t) => {
  const names = Object.keys(FAILURES);
  const upstream = await startUpstream(t, ({ request, response }) => {
    FAILURES[names[Number(request.url?.split('/')[1])] as string]?.answer(response);
  });
  const provider = (i: number) => ({ type: 'openai-compatible', baseUrl: `${upstream.url}/${i}/v1`, models: ['m'] });
  const config = {
    providers: Object.fromEntries(names.map((_, i) => [`p${i}`, provider(i)])),
    deadlines: { firstTokenMs: 1_500 },
  };
  const env = { CONFIG_FILE: writeConfig(t, JSON.stringify(config)), STREAM_MAX_CHARS: String(MAX_CHARS) };
  const { url } = await serve(t, { env: { ...env, DEFAULT_MODEL: 'p0/m' } });
  await Promise.all(
    names.map(async (name, i) => {
      const response = await postJson(`${url}/v1/chat/completions`, { model: `p${i}/m`, messages: MESSAGES });
      const refusal = { status: response.status, shouldRetry: response.headers.get('x-should-retry') };
      const { isPermanent, status } = FAILURES[name] as (typeof FAILURES)[string];
      t.equal(refusal.status, status, name);
      for (const [sdk, repeats] of Object.entries(REPEATS)) {
        if (isPermanent) t.notOk(repeats(refusal), `${sdk}, ${name}`);
      }
    }),
  );
});
