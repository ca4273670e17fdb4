import { setTimeout as sleep } from 'node:timers/promises';
import { type Cluster, type Redis, ReplyError } from 'ioredis';
import t, { type Test } from 'tap';
import { createClients } from '../../plugins/redis/clients.ts';
import { nodeSourceOf, primariesOf } from '../../plugins/redis/nodes.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { array, OK, push, type Reply, type RespServer, startRespServer } from './resp-server.ts';

/** The commands that the clients of a replica send to the servers of `REDIS_URL`. */

const NAME = 'sluice-r';

/** Creates the clients of an address, whose errors are collected. */
function setUp(t: Test, url: string, sentinelPassword?: string) {
  const settings = { url, prefix: 'p', required: false, sentinelPassword };
  const clients = createClients(settings as never, { connectionName: NAME, clock: manualClock() });
  const errors: string[] = [];
  const all = [clients.commands, clients.reads, clients.subscriber];
  for (const client of all) client.on('error', (error: Error) => errors.push(error.message));
  t.teardown(() => {
    for (const client of all) client.disconnect();
  });
  return { ...clients, errors };
}

const isLogin = (command: string) => /^(auth|hello 3 AUTH) /.test(command);
const connect = (client: Redis) => client.connect().catch(() => {});
const authenticated: Reply = (command) => (command.startsWith('get') ? '$5\r\nvalue\r\n' : OK);

t.test('a primary: credentials, database and name, and no command that needs another right', async (t) => {
  const server = await startRespServer(t, authenticated);
  const { isCluster, commands, reads, subscriber, database } = setUp(t, `redis://u:p%2F@127.0.0.1:${server.port}/3`);
  t.equal(isCluster, false);
  t.equal(database, 3);
  t.same(primariesOf(commands), [commands]);
  t.equal(nodeSourceOf(commands), undefined);
  await sleep(5);
  t.equal(server.connections.length, 0, 'nothing is connected before its time');
  for (const client of [commands, reads, subscriber]) await client.connect();
  t.equal(await commands.get('x'), 'value');
  t.equal(server.connections.length, 3, 'each has a connection of its own');
  const opening = ['hello 3 AUTH u p/', 'select 3', `client setname ${NAME}`];
  t.same(new Set(server.connections[0]), new Set([...opening, 'get x']));
  t.same(new Set(server.connections[1]), new Set(opening));
});

t.test('without a database the first one is used', async (t) => {
  t.equal(setUp(t, 'redis://127.0.0.1:1').database, 0);
});

t.test('a command without a connection fails at once, and one that was cut is not sent again', async (t) => {
  const server = await startRespServer(t, (command, socket) => {
    if (command === 'get cut') socket.destroy();
    return authenticated(command, socket);
  });
  const { commands } = setUp(t, `redis://127.0.0.1:${server.port}`);
  await t.rejects(commands.get('early'));
  await until(() => commands.status === 'ready', 'connected');
  // Its caller has a time limit.
  commands.get('cut').catch(() => {});
  await until(() => commands.status !== 'ready', 'the connection is lost');
  await t.rejects(commands.get('next'), 'nor does another one wait for the next connection');
  await until(() => commands.status === 'ready', 'connected again');
  t.equal(await commands.get('later'), 'value');
  t.same(
    server.commands.filter((command) => command.startsWith('get')),
    ['get cut', 'get later'],
  );
});

t.test('a subscription is not made again by the client', async (t) => {
  const subscribed = push(['subscribe', 'x', 1]);
  const server = await startRespServer(t, (command) => (command.startsWith('subscribe') ? subscribed : OK));
  const { subscriber } = setUp(t, `redis://127.0.0.1:${server.port}`);
  await subscriber.connect();
  await subscriber.subscribe('x');
  for (const socket of server.sockets) socket.destroy();
  await until(() => server.connections.length === 2 && subscriber.status === 'ready', 'connected again');
  await sleep(5);
  t.equal(server.commands.filter((command) => command === 'subscribe x').length, 1);
});

t.test('the pauses between attempts grow to a second, to ten after a refusal, and connecting goes on', async (t) => {
  const { commands } = setUp(t, 'redis://127.0.0.1:1');
  const pauses = (times: number) =>
    Array.from({ length: 200 }, () => Number(commands.options.retryStrategy?.(times))).sort((a, b) => a - b);
  const isWithin = (times: number, min: number, max: number) => {
    const [first = 0, last = 0] = [pauses(times)[0], pauses(times).at(-1)];
    t.ok(first >= min && last <= max && last - first > (max - min) / 2, `${times}: ${first} to ${last} ms`);
  };
  isWithin(1, 75, 125);
  isWithin(3, 300, 500);
  isWithin(1_000, 750, 1_250);
  commands.emit('error', new ReplyError('WRONGPASS x'));
  isWithin(1, 75, 125);
  isWithin(1_000, 7_500, 12_500);
  commands.emit('error', new Error('ECONNREFUSED'));
  isWithin(1_000, 750, 1_250);
});

t.test('Sentinels: the primary of the name is asked for, with passwords of their own', async (t) => {
  const primary = await startRespServer(t, authenticated);
  const sentinel = await startRespServer(t, (command) => {
    if (command.startsWith('sentinel get-master-addr-by-name')) return array(['127.0.0.1', primary.port]);
    return command.startsWith('sentinel') ? array([]) : OK;
  });
  const nodes = `127.0.0.1:1,127.0.0.1:${sentinel.port}`;
  const { commands, isCluster, database } = setUp(t, `redis+sentinel://u:p@${nodes}/main`, 'other');
  await commands.connect();
  t.equal(await commands.get('x'), 'value');
  t.equal(isCluster, false);
  t.equal(database, 0);
  t.ok(sentinel.commands.includes('sentinel get-master-addr-by-name main'));
  t.same(sentinel.commands.filter(isLogin), ['hello 3 AUTH default other']);
  t.same(new Set(primary.commands), new Set(['hello 3 AUTH u p', `client setname ${NAME}`, 'get x']));
});

t.test('Sentinels that do not answer are asked again', async (t) => {
  let attempts = 0;
  const sentinel = await startRespServer(t, (_, socket) => {
    attempts += 1;
    socket.destroy();
    return undefined;
  });
  const { commands, errors } = setUp(t, `redis+sentinel://127.0.0.1:${sentinel.port}/main`);
  void connect(commands);
  await until(() => attempts > 2 && errors.length > 1, 'further attempts');
  t.match(errors[0], /^All sentinels are unreachable/);
});

t.test('TLS is used for Redis, for Sentinels, and for every node of a cluster', async (t) => {
  t.ok(setUp(t, 'rediss://127.0.0.1:1').commands.options.tls);
  const { options } = setUp(t, 'rediss+sentinel://127.0.0.1:1/main').commands;
  t.match(options, { tls: {}, sentinelTLS: {}, enableTLSForSentinelMode: true });
  t.notOk(setUp(t, 'redis+sentinel://127.0.0.1:1/main').commands.options.tls);
  const cluster = setUp(t, 'rediss+cluster://127.0.0.1:1').commands as unknown as Cluster;
  t.ok(cluster.options.redisOptions?.tls);
  const found: unknown[] = [];
  cluster.options.dnsLookup?.('name.example', (...result) => found.push(...result));
  t.same(found, [null, 'name.example'], 'the certificate names the host, so it is not resolved before');
  t.notOk((setUp(t, 'redis+cluster://127.0.0.1:1').commands as unknown as Cluster).options.redisOptions?.tls);
});

/** Starts two nodes, of which the second one has all slots. */
async function startNodes(t: Test, reply: Reply = authenticated) {
  const servers: RespServer[] = [];
  const slots = () => array([[0, 16_383, ['127.0.0.1', servers[1]?.port, 'b'.repeat(40)]]]);
  for (let i = 0; i < 2; i++) {
    servers.push(
      await startRespServer(t, (command, socket) =>
        /^cluster slots/i.test(command) ? slots() : reply(command, socket),
      ),
    );
  }
  const [first, second] = servers as [RespServer, RespServer];
  return { first, second, url: `redis+cluster://u:p@127.0.0.1:${first.port}` };
}

t.test('a cluster: commands go to the primary that one of the nodes names', async (t) => {
  const { first, second, url } = await startNodes(t);
  const { isCluster, commands, database } = setUp(t, url);
  t.equal(isCluster, true);
  t.equal(database, 0);
  await connect(commands);
  await until(() => commands.status === 'ready', 'connected');
  t.equal(await commands.get('x'), 'value');
  t.ok(second.commands.includes('get x'));
  t.notOk(first.commands.includes('get x'));
  for (const { commands: sent } of [first, second]) {
    t.ok(
      sent.some((command) => isLogin(command) && command.endsWith('u p')),
      'with the credentials',
    );
    t.notOk(
      sent.some((command) => /^info|SETINFO/i.test(command)),
      'without rights that Sluice does not need',
    );
  }
  t.ok(second.commands.includes(`client setname ${NAME}`), 'operators see whose it is');
  t.same(
    primariesOf(commands).map(({ options }) => options.port),
    [second.port],
  );
  t.equal(nodeSourceOf(commands), commands as never);
});

t.test('a cluster: a command that was cut, or that a failover refuses, is not sent again', async (t) => {
  let asked = 0;
  const { second, url } = await startNodes(t, (command, socket) => {
    if (command === 'get cut') socket.destroy();
    if (command === 'get down') return '-CLUSTERDOWN The cluster is down\r\n';
    if (command === 'get moving') return ++asked < 3 ? '-TRYAGAIN Multiple keys request\r\n' : '$5\r\nmoved\r\n';
    return authenticated(command, socket);
  });
  const { commands } = setUp(t, url);
  await connect(commands);
  await until(() => commands.status === 'ready', 'connected');
  await t.rejects(commands.get('down'), /CLUSTERDOWN/);
  t.equal(second.commands.filter((command) => command === 'get down').length, 1);
  t.equal(await commands.get('moving'), 'moved', 'one whose slot moves is repeated');
  await t.rejects(commands.get('cut'));
  await sleep(5);
  t.equal(second.commands.filter((command) => command === 'get cut').length, 1);
});

t.test('a cluster that refuses: its reply is an error until the first answer', async (t) => {
  let refuses = true;
  const wrong = '-WRONGPASS invalid username-password pair\r\n';
  const { url } = await startNodes(t, (command, socket) =>
    refuses && isLogin(command) ? wrong : authenticated(command, socket),
  );
  const { commands, errors } = setUp(t, url);
  void connect(commands);
  await until(() => errors.some((message) => message.startsWith('WRONGPASS')), 'the reason');
  const { clusterRetryStrategy } = (commands as unknown as Cluster).options;
  t.ok(Number(clusterRetryStrategy?.(1_000)) >= 7_500, 'the pauses are those after a refusal');
  refuses = false;
  await until(() => commands.status === 'ready', 'connected');
  errors.length = 0;
  commands.emit('node error', new ReplyError('LOADING x'));
  t.same(errors, [], 'while one node fails, the others work');
});

t.test('a cluster: messages come from the node of the channel, found by any node', async (t) => {
  const { second, url } = await startNodes(t, (command, socket) =>
    command === 'ssubscribe x' ? push(['ssubscribe', 'x', 1]) : authenticated(command, socket),
  );
  const { subscriber, commands } = setUp(t, url);
  await connect(commands);
  await until(() => commands.status === 'ready', 'connected');
  const messages: string[] = [];
  subscriber.on('message', (channel: string, text: string) => messages.push(`${channel} ${text}`));
  await subscriber.connect();
  await until(() => subscriber.status === 'ready', 'connected');
  await subscriber.subscribe('x');
  t.ok(second.commands.includes('ssubscribe x'), 'a primary that is known is asked first');
  for (const socket of second.sockets) socket.write(push(['smessage', 'x', 'hello']));
  await until(() => messages.length > 0, 'a message');
  t.equal(messages[0], 'x hello');
  const before = second.connections.length;
  let isClosed = false;
  subscriber.on('close', () => {
    isClosed = true;
  });
  for (const socket of second.sockets) socket.destroy();
  await until(() => isClosed, 'the connection is lost');
  await t.rejects(subscriber.subscribe('x'), 'no command waits for the next connection');
  t.ok(second.connections.length >= before);
});

t.test('a cluster whose nodes are not known yet: those of the address are asked for the channel', async (t) => {
  const { first, url } = await startNodes(t, (command, socket) =>
    command === 'ssubscribe x' ? push(['ssubscribe', 'x', 1]) : authenticated(command, socket),
  );
  const { subscriber } = setUp(t, url);
  await subscriber.connect();
  await until(() => subscriber.status === 'ready', 'connected');
  await subscriber.subscribe('x');
  t.ok(first.commands.includes('hello 3 AUTH u p'));
  t.ok(first.commands.includes('ssubscribe x'));
});
