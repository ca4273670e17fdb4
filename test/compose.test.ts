import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { parse } from 'yaml';
import { loadConfig } from '../plugins/config/load.ts';
import { until } from './helper.ts';
import { freePort, noRedis } from './redis.ts';

/** `deploy/compose.yaml`: closed by default, and what it starts is what is meant. */

interface Service {
  readonly image?: string;
  readonly ports?: readonly string[];
  readonly volumes?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly command?: readonly string[];
  readonly read_only?: boolean;
  readonly mem_limit?: string;
  readonly pids_limit?: number;
  readonly cap_drop?: readonly string[];
  readonly security_opt?: readonly string[];
}

const FILE = 'deploy/compose.yaml';
const { services } = parse(readFileSync(FILE, 'utf8'), { merge: true }) as { services: Record<string, Service> };

/** Replaces variables as compose does. @throws for a required one that is not set */
function interpolate(text: string, env: Record<string, string>): string {
  return text.replace(/\$(?:\$|\{(\w+)(?::([-?])([^}]*))?\})/g, (match, name, kind, rest) => {
    if (match === '$$') return '$';
    if (env[name]) return env[name];
    if (kind === '?') throw new Error(`${name}: ${rest}`);
    return rest ?? '';
  });
}

t.test('every port is on loopback, and every container has limits', (t) => {
  for (const [name, service] of Object.entries(services)) {
    for (const port of service.ports ?? []) t.match(interpolate(port, {}), /^127\.0\.0\.1:\d+:\d+$/, `${name} ${port}`);
    t.ok(service.mem_limit && service.pids_limit, `${name} has limits`);
    t.same(service.cap_drop, ['ALL'], `${name} has no capabilities`);
    t.same(service.security_opt, ['no-new-privileges:true'], name);
    if (service.image) t.match(service.image, /:v?\d+(\.\d+)*$/, `${name} has a version`);
    for (const volume of service.volumes ?? []) {
      const [source = '', , mode] = volume.split(':');
      t.equal(mode, 'ro', `${name} ${volume}`);
      t.ok(existsSync(join('deploy', source)), `${name} ${source} exists`);
    }
  }
  for (const name of ['sluice-1', 'sluice-2', 'redis', 'nginx']) t.equal(services[name]?.read_only, true, name);
  t.same(services.redis?.ports, undefined, 'Redis has no port on the host');
  t.end();
});

t.test('the replicas start with the mounted file, and not without a password of Redis', (t) => {
  const environment = services['sluice-1']?.environment ?? {};
  const set = { REDIS_PASSWORD: 'p'.repeat(48) };
  const load = (env: Record<string, string>) => {
    const values = Object.entries(environment).map(([name, value]) => [name, interpolate(String(value), env)]);
    const [, file = ''] = /^\/etc\/sluice\/(.*)$/.exec(environment.CONFIG_FILE ?? '') ?? [];
    return loadConfig({ ...Object.fromEntries(values), CONFIG_FILE: `deploy/sluice/${file}` });
  };
  const config = load(set);
  t.match(config.redis?.url, `redis://:${set.REDIS_PASSWORD}@redis:6379`);
  t.equal(config.trustProxy, 1);
  t.throws(() => load({}), { message: /^REDIS_PASSWORD/ });
  // With keys, all replicas need the same secret; without, a secret is a mistake.
  t.throws(() => load({ ...set, TICKET_SECRET: 'x'.repeat(48) }), /TICKET_SECRET: needs keys/);
  t.end();
});

t.test('Redis refuses clients without the password', { skip: noRedis }, async (t) => {
  const port = await freePort();
  const [shell = '', option = '', script = ''] = (services.redis?.command ?? []).map((word) => interpolate(word, {}));
  const adapted = script.replace('redis-server -', `exec redis-server - --port ${port}`);
  t.not(adapted, script);
  const child = spawn(shell, [option, adapted], {
    env: { PATH: process.env.PATH, REDIS_PASSWORD: 'p' },
    stdio: 'ignore',
  });
  t.teardown(async () => {
    child.kill('SIGKILL');
    execFileSync('redis-cli', ['-p', String(port), '-a', 'p', 'shutdown', 'nosave'], { stdio: 'ignore' });
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  });
  const cli = (...args: string[]) => {
    try {
      return execFileSync('redis-cli', ['-p', String(port), ...args], { encoding: 'utf8', stdio: 'pipe' }).trim();
    } catch {
      return '';
    }
  };
  await until(() => cli('ping') !== '', 'Redis answers');
  t.match(cli('ping'), 'NOAUTH');
  t.equal(cli('-a', 'p', 'ping'), 'PONG');
  t.match(cli('-a', 'p', 'config', 'get', 'maxmemory-policy'), 'noeviction');
});
