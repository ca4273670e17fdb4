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

t.test('the compiler is loaded before the first request, and a wrong schema is left to its request', async (t) => {
  for (const type of ['object', 'unknown']) {
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
    validators.loadCompiler();
    app.post('/first', { schema: schema('first', type) }, async () => 'done');
    app.post('/second', { schema: schema('second', 'object') }, async () => 'done');
    await app.ready();

    read.length = 0;
    validators.loadCompiler();
    t.same(new Set(read), new Set(['first']), `${type}: one schema`);
    if (type === 'object') {
      read.length = 0;
      validators.loadCompiler();
      t.same(read, [], 'once');
    }
    const statusOf = async (url: string) => (await app.inject({ method: 'POST', url, payload: {} })).statusCode;
    t.equal(await statusOf('/first'), type === 'object' ? 200 : 500, `${type}: first route`);
    t.equal(await statusOf('/second'), 200, `${type}: second route`);
  }
});
