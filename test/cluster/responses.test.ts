import OpenAI from 'openai';
import t from 'tap';
import { noCluster, startCluster } from '../cluster.ts';
import { deferred, until, writeConfig } from '../helper.ts';
import { checkGrammar } from '../responses/grammar.ts';
import { numberedAnswer, numberedDeltas } from '../upstream.ts';

/** Background responses through the gateway of `deploy/`, with the OpenAI SDK, while a replica is killed. */

type Event = OpenAI.Responses.ResponseStreamEvent;

const textOf = (events: readonly Event[]) =>
  events.map((event) => (event.type === 'response.output_text.delta' ? event.delta : '')).join('');

/** Reads events until the stream breaks off or ends. */
async function collect(stream: AsyncIterable<Event>, events: Event[]): Promise<void> {
  try {
    for await (const event of stream) events.push(event);
  } catch {
    // The connection is cut.
  }
}

t.test(
  'kill -9 of the replica that a client reads from: both ways of the SDK continue',
  { skip: noCluster },
  async (t) => {
    let release = () => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    const cluster = await startCluster(t, numberedAnswer(60, 5, released));
    const urls = cluster.replicas.map(({ url }) => `${url}/v1`);
    const [producing, serving] = urls.map((baseURL) => new OpenAI({ baseURL, apiKey: 'any', maxRetries: 0 })) as [
      OpenAI,
      OpenAI,
    ];
    const { id } = await producing.responses.create({ input: 'q', background: true });
    const events: Event[] = [];
    const reading = collect(await serving.responses.retrieve(id, { stream: true }), events);
    await until(() => events.length > 8, 'the answer is read');
    cluster.replicas[1]?.child.kill('SIGKILL');
    await reading;
    t.ok(events.length < 60, 'the connection is cut');
    release();
    const gateway = new OpenAI({ baseURL: `${cluster.url}/v1`, apiKey: 'any', maxRetries: 10 });
    const after = events.at(-1)?.sequence_number ?? -1;
    const helper = gateway.responses.stream({ response_id: id, starting_after: after });
    const rest: Event[] = [];
    for await (const event of helper) rest.push(event as Event);
    const retrieved: Event[] = [];
    await collect(await gateway.responses.retrieve(id, { stream: true, starting_after: after }), retrieved);
    const answer = numberedDeltas(60).join('');
    t.equal(textOf([...events, ...rest]), answer);
    t.equal(textOf([...events, ...retrieved]), answer);
    t.equal((await helper.finalResponse()).output_text, answer);
    t.equal((await gateway.responses.retrieve(id)).output_text, answer);
    t.equal(cluster.upstream.calls.length, 1, 'one provider call');
  },
);

t.test(
  'kill -9 of the producer: the response fails, with the same events behind any of them',
  { skip: noCluster },
  async (t) => {
    const cluster = await startCluster(t, numberedAnswer(1_000, 60));
    const urls = cluster.replicas.map(({ url }) => `${url}/v1`);
    const [producing, other] = urls.map((baseURL) => new OpenAI({ baseURL, apiKey: 'any', maxRetries: 0 })) as [
      OpenAI,
      OpenAI,
    ];
    const { id } = await producing.responses.create({ input: 'q', background: true });
    await cluster.upstream.call(1);
    const events: Event[] = [];
    const reading = collect(await other.responses.retrieve(id, { stream: true }), events);
    await until(() => textOf(events).length > 20, 'the answer is read');
    cluster.replicas[0]?.child.kill('SIGKILL');
    await reading;
    const last = events.at(-1);
    t.match(last, { type: 'response.failed', response: { status: 'failed', error: { code: 'stream_lost' } } });
    const rest: Event[] = [];
    const after = events[9]?.sequence_number ?? 0;
    await collect(await other.responses.retrieve(id, { stream: true, starting_after: after }), rest);
    t.same(rest, events.slice(10), 'the same events behind any of them');
    t.ok(numberedDeltas(1_000).join('').startsWith(textOf(events)));
    t.match(await other.responses.retrieve(id), { status: 'failed', error: { code: 'stream_lost' } });
    t.equal(cluster.upstream.calls.length, 1);
  },
);

t.test(
  'kill -9 of the producer with `onMidStreamFailure: continue`: one response, whose events continue',
  { skip: noCluster },
  async (t) => {
    const yaml = 'models: [{ name: m, targets: [{ provider: bella, model: gpt-4o }], onMidStreamFailure: continue }]\n';
    const env = { CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'm' };
    const release = deferred();
    const cluster = await startCluster(t, numberedAnswer(50, 5, release.promise), env);
    const urls = cluster.replicas.map(({ url }) => `${url}/v1`);
    const [producing, other] = urls.map((baseURL) => new OpenAI({ baseURL, apiKey: 'any', maxRetries: 0 })) as [
      OpenAI,
      OpenAI,
    ];
    const events: Event[] = [];
    const reading = collect(await producing.responses.create({ input: 'q', background: true, stream: true }), events);
    await until(() => textOf(events).length > 20, 'the answer is read');
    const id = events[0]?.type === 'response.created' ? events[0].response.id : '';
    cluster.replicas[0]?.child.kill('SIGKILL');
    await reading;
    t.notMatch(events.at(-1), { type: /completed|failed|incomplete/ }, 'the connection is cut');
    const after = events.at(-1)?.sequence_number ?? -1;
    const waiting = await other.responses.retrieve(id, { stream: true, starting_after: after });
    release.resolve();
    await collect(waiting, events);
    const answer = numberedDeltas(50).join('');
    t.equal(textOf(events), answer, 'the text before and after the cut');
    t.same(
      events.map(({ sequence_number: number }) => number),
      events.map((_, i) => i),
    );
    const ids = events.map((event) => ('response' in event ? event.response.id : id));
    t.same([...new Set(ids)], [id], 'one response');
    checkGrammar(events);
    const last = events.at(-1);
    const streamed = last?.type === 'response.completed' ? last.response : undefined;
    const { completed_at: _, ...retrieved } = await other.responses.retrieve(id);
    t.match(retrieved, { ...streamed, output_text: answer }, 'the retrieved response is the streamed one');
    t.same(retrieved.output, streamed?.output);
    const again: Event[] = [];
    await collect(await other.responses.retrieve(id, { stream: true, starting_after: 9 }), again);
    t.same(again, events.slice(10), 'every event can be read again');
    t.equal(cluster.upstream.calls.length, 2, 'asked once and continued once');
  },
);
