import { ReplyError } from 'ioredis';
import t from 'tap';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { createHealth } from '../../plugins/redis/health.ts';
import {
  channelRight,
  isNetworkReason,
  isPartialRefusal,
  isRefusal,
  missingRight,
  needsReconnect,
  problem,
  reasonOf,
} from '../../plugins/redis/problems.ts';

/** Problems of Redis, and the lines of the log about them. */

t.test('the code word of an error is known, and its text is never repeated', async (t) => {
  const network = (code: unknown) => Object.assign(new Error('secret'), { code });
  const named = (name: string) => Object.assign(new Error('secret'), { name });
  for (const [error, reason] of [
    [new ReplyError('WRONGPASS invalid username-password pair'), 'WRONGPASS'],
    [new ReplyError("READONLY You can't write against a read only replica."), 'READONLY'],
    [new ReplyError('MOVED 5 10.0.0.1:6379'), 'MOVED'],
    [new ReplyError("ERR unknown command 'EVALSHA'"), 'unknown_command'],
    [new ReplyError("ERR Unknown Command 'EVALSHA'"), 'unknown_command'],
    [new ReplyError('ERR max number of clients reached'), 'max_clients'],
    [new ReplyError('ERR invalid password'), 'WRONGPASS'],
    [new ReplyError('ERR DB index is out of range'), 'database'],
    [new ReplyError('ERR This instance has cluster support disabled'), 'no_cluster'],
    [new ReplyError('ERR Error running script: @user_script: -OOM command not allowed'), 'OOM'],
    [new ReplyError('ERR NOPERM in a script'), 'NOPERM'],
    [new ReplyError('ERR something with secret'), 'ERR'],
    [new ReplyError('secret'), 'ERR'],
    [network('ECONNREFUSED'), 'ECONNREFUSED'],
    [network('CERT_HAS_EXPIRED'), 'CERT_HAS_EXPIRED'],
    [network(5), 'closed'],
    [network('no code word'), 'closed'],
    [network('E'.repeat(100)), 'closed'],
    [new Error('Connection is closed. secret'), 'closed'],
    [named('ClusterAllFailedError'), 'no_node'],
    [new Error('All sentinels are unreachable. Last error: secret'), 'no_sentinel'],
    [{}, 'closed'],
  ] as const) {
    t.equal(reasonOf(error), reason, String(error));
  }
});

t.test('each reason has a hint for the operator', async (t) => {
  for (const [reason, hint] of [
    ['WRONGPASS', /password/],
    ['OOM', /maxmemory/],
    ['MOVED', /redis\+cluster/],
    ['no_sentinel', /REDIS_SENTINEL_PASSWORD/],
    ['CERT_HAS_EXPIRED', /NODE_EXTRA_CA_CERTS/],
    ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', /NODE_EXTRA_CA_CERTS/],
    ['ERR_TLS_CERT_ALTNAME_INVALID', /NODE_EXTRA_CA_CERTS/],
    ['EPROTO', /NODE_EXTRA_CA_CERTS/],
    ['XYZ', /documentation of Redis/],
  ] as const) {
    t.match(problem(reason), { reason, hint });
  }
  t.same(Object.keys(problem('OOM')), ['reason', 'hint']);
  t.same(problem('NOPERM', ['command set']).missing, ['command set']);
});

t.test('kinds of reasons', async (t) => {
  const replies = 'ASK BUSY CLUSTERDOWN CROSSSLOT ERR LOADING MASTERDOWN MISCONF MOVED NOAUTH NOPERM NOREPLICAS OOM';
  const all = [...replies.split(' '), 'READONLY', 'WRONGTYPE', 'unknown_command'];
  t.same(
    all.filter((reason) => !isRefusal(reason)),
    ['ERR', 'WRONGTYPE'],
    'after every other one, further writes fail as well',
  );
  t.same(all.filter(isPartialRefusal), ['ASK', 'CROSSSLOT', 'MOVED', 'NOPERM', 'unknown_command']);
  t.same(all.filter(needsReconnect), ['MASTERDOWN', 'NOAUTH', 'READONLY']);
  const codes = 'ECONNRESET ENOTFOUND EAI_AGAIN EPIPE EHOSTUNREACH ENETUNREACH ETIMEDOUT';
  const network = [...codes.split(' '), 'closed', 'timeout', 'no_node', 'no_sentinel'];
  t.same(network.filter(isNetworkReason), network);
  t.same([...all, 'EPROTO', 'pending', 'CERT_HAS_EXPIRED'].filter(isNetworkReason), []);
});

t.test('a missing right is named as an ACL has it, for all versions of Redis', async (t) => {
  for (const [message, right] of [
    ["NOPERM this user has no permissions to run the 'set' command", 'command set'],
    ['NOPERM this user has no permissions to access one of the keys used as arguments', 'keys ~p:*'],
    ['NOPERM No permissions to access a key', 'keys ~p:*'],
    ['NOPERM this user has no permissions to access one of the channels used as arguments', 'channels &p:*'],
    ['NOPERM No permissions to access a channel', 'channels &p:*'],
  ] as const) {
    t.equal(missingRight('set', new Error(message), 'p'), right);
  }
  t.equal(channelRight('p'), 'channels &p:*');
});

function setUp() {
  const up: number[] = [];
  const lines: [fields: object | undefined, text: string][] = [];
  const health = createHealth({
    metrics: { redisUp: { set: (value: number) => up.push(value) } } as unknown as Metrics,
    log: {
      warn: (fields: object, text: string) => lines.push([fields, text]),
      info: (text: string) => lines.push([undefined, text]),
    } as never,
  });
  const changes: string[] = [];
  health.onAvailable(() => changes.push('available'));
  health.onUnavailable(() => changes.push('unavailable'));
  const reportAll = () => {
    for (const part of ['connection', 'lease', 'rights', 'mailbox'] as const) health.report(part, undefined);
  };
  return { health, up, lines, changes, reportAll };
}

t.test('Redis is available when every part works', async (t) => {
  const { health, up, lines, changes } = setUp();
  health.startLog();
  t.same(lines, [], 'nothing is known yet');
  for (const [part, works] of [
    ['connection', [true, false, false, false]],
    ['lease', [true, true, false, false]],
    ['rights', [true, true, true, false]],
    ['mailbox', [true, true, true, true]],
  ] as const) {
    t.equal(health.isAvailable, false);
    health.report(part, undefined);
    t.same(
      (['connection', 'lease', 'rights', 'mailbox'] as const).map((upTo) => health.works(upTo)),
      works,
    );
  }
  t.equal(health.isAvailable, true);
  t.same(up, [0, 1]);
  t.same(changes, ['available']);
  health.report('mailbox', undefined);
  t.same(changes, ['available'], 'a repetition is no change');
  health.report('lease', problem('OOM'));
  health.report('rights', problem('NOPERM'));
  t.equal(health.isAvailable, false);
  t.same([health.works('connection'), health.works('lease'), health.works('mailbox')], [true, false, false]);
  t.same(up, [0, 1, 0]);
  t.same(changes, ['available', 'unavailable']);
});

t.test('an outage is logged with its reason and consequence, and its end', async (t) => {
  const { health, lines, reportAll } = setUp();
  health.report('connection', problem('ECONNREFUSED'));
  t.same(lines, [], 'a start has time to connect');
  health.startLog();
  t.match(lines, [
    [{ reason: 'ECONNREFUSED', hint: /nothing listens/ }, /^redis unavailable at start; streams continue/],
  ]);
  health.report('connection', problem('closed'));
  health.report('connection', problem('timeout'));
  t.equal(lines.length, 1, 'one outage of the network has one line');
  health.report('connection', undefined);
  health.report('lease', problem('OOM'));
  t.match(lines[1], [{ reason: 'OOM' }, /^redis unavailable; streams continue/], 'another reason has its own');
  health.report('lease', problem('OOM'));
  t.equal(lines.length, 2);
  reportAll();
  t.same(lines[2], [undefined, 'redis available']);
  health.report('lease', problem('OOM'));
  t.match(lines[3], [{ reason: 'OOM' }], 'the next outage is logged again');
  health.report('lease', problem('OOM'));
  t.equal(lines.length, 4, 'once');
});

t.test('rights that several parts lack are named in one line', async (t) => {
  const { health, lines, reportAll } = setUp();
  health.startLog();
  reportAll();
  lines.length = 0;
  health.report('mailbox', problem('NOPERM', ['channels &p:*']));
  health.report('rights', problem('NOPERM', ['command set', 'keys ~p:*']));
  t.match(lines, [
    [{ reason: 'NOPERM', missing: ['channels &p:*'] }],
    [{ reason: 'NOPERM', missing: ['command set', 'keys ~p:*', 'channels &p:*'] }],
  ]);
  health.report('lease', problem('NOPERM'));
  for (const part of ['mailbox', 'rights'] as const) health.report(part, undefined);
  t.equal(lines.length, 2, 'the same reason without details says nothing new');
});

t.test('the problem of the first part is the reason', async (t) => {
  const { health, lines } = setUp();
  health.report('mailbox', problem('NOPERM', ['channels &p:*']));
  health.report('connection', problem('timeout'));
  health.startLog();
  t.match(lines, [[{ reason: 'timeout' }]]);
  t.same(Object.keys(lines[0]?.[0] ?? {}), ['reason', 'hint'], 'the rights are another problem');
});

t.test('nothing is reported after the end of the process has begun', async (t) => {
  const { health, up, lines, changes, reportAll } = setUp();
  health.startLog();
  reportAll();
  lines.length = 0;
  health.close();
  t.same([health.isAvailable, health.works('connection')], [false, false]);
  health.report('connection', problem('closed'));
  t.same([up, lines, changes], [[0, 1], [], ['available']]);
});

t.test('a start with a Redis that works logs nothing but that', async (t) => {
  const { health, lines, reportAll } = setUp();
  reportAll();
  health.startLog();
  t.same(lines, []);
});
