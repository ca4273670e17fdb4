import type { FastifyRequest } from 'fastify';
import t from 'tap';
import type { Question } from '../../plugins/streams/api.ts';
import { startStream } from '../../routes/start-stream.ts';

/** Tests the streams that a ticket starts. */

const question = (content: string): Question => ({ model: undefined, messages: [{ role: 'user', content }] });

function setUp(identity: object, method = 'GET', error?: object) {
  const keys: (string | undefined)[] = [];
  let refused = 0;
  const server = {
    streams: {
      async start(_: unknown, { key }: { key?: string }) {
        if (error) throw error;
        keys.push(key);
      },
    },
    httpErrors: { unauthorized: (message: string) => Object.assign(new Error(message), { statusCode: 401 }) },
    audit: {
      credentialsRefused() {
        refused += 1;
      },
    },
  };
  const request = { server, identity: { owner: 'o', ...identity }, method } as unknown as FastifyRequest;
  const ask = (text: string, key?: string) => startStream(request, question(text), { resumable: true, key });
  return { ask, keys, refused: () => refused };
}

t.test('a ticket for one question stands for one stream, however it is asked', async (t) => {
  for (const method of ['GET', 'POST']) {
    const { ask, keys } = setUp({ ticket: { nonce: 'n', questions: 1 } }, method);
    await ask('a');
    await ask('b');
    t.same(keys, ['ticket n', 'ticket n'], method);
  }
});

t.test(
  'with a ticket for several, a GET that is repeated is the same question, and a POST is another one',
  async (t) => {
    const ticket = { nonce: 'n', questions: 2 };
    const get = setUp({ ticket });
    for (const text of ['a', 'a', 'b']) await get.ask(text);
    const [first, again, other] = get.keys;
    t.match(first, /^ticket n ./);
    t.equal(again, first);
    t.not(other, first);
    const post = setUp({ ticket }, 'POST');
    await post.ask('a');
    await post.ask('a', 'own');
    t.same(post.keys, [undefined, 'own'], 'only a key of the client makes two of them one');
  },
);

t.test('a ticket that only resumes starts nothing', async (t) => {
  const { ask, keys } = setUp({ resumeOnly: true, ticket: { nonce: 'n', questions: 1 } });
  await t.rejects(ask('a'), { message: /has expired/ });
  t.same(keys, []);
});

t.test('a ticket that was used is refused as a credential, and other errors are passed on', async (t) => {
  const ticket = { nonce: 'n', questions: 1 };
  const conflict = { statusCode: 409 };
  const cases: [identity: object, error: object, key: string | undefined, statusCode: number][] = [
    [{ ticket }, conflict, undefined, 401],
    [{ ticket }, { statusCode: 429, isTicketUsed: true }, 'own', 401],
    [{ ticket }, conflict, 'own', 409],
    [{}, conflict, undefined, 409],
    [{ ticket }, { statusCode: 503 }, undefined, 503],
  ];
  for (const [identity, error, key, statusCode] of cases) {
    const { ask, refused } = setUp(identity, 'GET', error);
    const fault = await ask('a', key).then(
      () => undefined,
      (thrown) => thrown,
    );
    t.equal(fault?.statusCode, statusCode, JSON.stringify([identity, error, key]));
    t.equal(refused(), statusCode === 401 ? 1 : 0, 'the audit log has it');
  }
});
