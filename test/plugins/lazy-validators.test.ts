import Fastify from 'fastify';
import t from 'tap';
import { createLazyValidators } from '../../plugins/http/lazy-validators.ts';

t.test('a schema is compiled once, at the first request of its route, with its errors and references', async (t) => {
  let reads = 0;
  const body = {
    get type() {
      reads += 1;
      return 'object';
    },
    required: ['name'],
    properties: { name: { $ref: 'Name#' } },
  };
  const app = Fastify({ schemaController: { compilersFactory: { buildValidator: createLazyValidators().build } } });
  app.addSchema({ $id: 'Name', type: 'string', minLength: 2 });
  app.post('/', { schema: { body } }, async () => 'done');
  await app.ready();
  const send = (payload: object) => app.inject({ method: 'POST', url: '/', payload });

  const before = reads;
  const missing = await send({});
  t.equal(missing.statusCode, 400);
  t.match(missing.json().message, "must have required property 'name'");
  const compiled = reads;
  t.ok(compiled > before, 'compiled at the first request');

  t.equal((await send({ name: 'ab' })).statusCode, 200, 'no error is left over');
  const short = await send({ name: 'a' });
  t.equal(short.statusCode, 400);
  t.match(short.json().message, 'body/name must NOT have fewer than 2 characters');
  t.equal(reads, compiled, 'not compiled again');
});

t.test(
  'schemas that no request has needed are compiled one by one, and a wrong one is left to its request',
  async (t) => {
    const read: string[] = [];
    const schema = (name: string, type: string) => ({
      body: {
        get type() {
          read.push(name);
          return type;
        },
      },
    });
    const validators = createLazyValidators();
    const app = Fastify({ schemaController: { compilersFactory: { buildValidator: validators.build } } });
    for (const [name, type] of [
      ['a', 'object'],
      ['b', 'unknown'],
      ['c', 'array'],
      ['d', 'object'],
    ] as const) {
      app.post(`/${name}`, { schema: schema(name, type) }, async () => name);
    }
    await app.ready();
    const send = (name: string) => app.inject({ method: 'POST', url: `/${name}`, payload: {} });
    t.equal((await send('c')).statusCode, 400);

    const steps: string[] = [];
    for (let i = 0; i < 4; i++) {
      read.length = 0;
      validators.compileOne();
      steps.push([...new Set(read)].join());
    }
    t.same(steps, ['a', 'b', 'd', ''], 'each once, and those without a request only');
    read.length = 0;
    t.equal((await send('a')).statusCode, 200);
    t.equal((await send('d')).statusCode, 200);
    t.same(read, [], 'not compiled again');
    t.equal((await send('b')).statusCode, 500);
  },
);
