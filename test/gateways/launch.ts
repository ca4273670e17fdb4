import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import type { Test } from 'tap';
import { CERT, KEY } from '../certificate.ts';
import { until } from '../helper.ts';
import { isOpen } from '../nginx.ts';
import { freePort, isInstalled, skipReason } from '../redis.ts';

/** The gateways of `deploy/`, each with the configuration that is shipped. */

export interface Gateway {
  /** URL over HTTP/1.1. */
  readonly url: string;
  /** URL over TLS, where the gateway speaks HTTP/2; undefined if it has no TLS. */
  readonly tlsUrl: string | undefined;
  /** Returns everything that was logged. */
  log(): string;
}

/** Changes of a shipped configuration for a test. */
export interface GatewayOptions {
  /** Ports of the two replicas, in place of `sluice-1:3000` and `sluice-2:3000`. */
  readonly replicas: readonly [number, number];
  /** Idle time-out in seconds, in place of 620. */
  readonly idleS?: number;
}

interface Files {
  readonly folder: string;
  readonly port: number;
  readonly tlsPort: number;
}

export interface GatewayKind {
  readonly name: string;
  /** Reason to skip its tests; false if it is installed. */
  readonly missing: string | false;
  /** False if it has no TLS: a TLS terminator stands in front. */
  readonly tls?: false;
  /** False if a POST with a body that cannot connect to a replica is refused instead of sent to the next one. */
  readonly repeatsUnsentPost?: false;
  /** The shipped files. The command gets the first one. */
  readonly files: readonly string[];
  /** Adapts a shipped file to one machine: ports, files, names that only a container network has. */
  adapt(text: string, files: Files): string;
  command(file: string, files: Files): [string, ...string[]];
}

const NGINX = process.env.NGINX ?? 'nginx';

export const GATEWAYS: readonly GatewayKind[] = [
  {
    name: 'nginx',
    missing: isInstalled(NGINX, '-v') ? false : `${NGINX} is not installed`,
    files: ['deploy/nginx/nginx.conf'],
    adapt: (text, { folder, port, tlsPort }) =>
      `pid ${folder}/pid;\n${text}`
        // The addresses are fixed, and the nginx of the machine may be too old for `resolve`.
        .replace(/ *(resolver|zone) .*\n/g, '')
        .replaceAll(' resolve ', ' ')
        .replace('worker_processes auto;', 'worker_processes 1;')
        .replace(
          'listen 8080;',
          `listen 127.0.0.1:${port};
listen 127.0.0.1:${tlsPort} ssl http2; ssl_certificate ${folder}/cert.pem; ssl_certificate_key ${folder}/key.pem;`,
        ),
    command: (file, { folder }) => [NGINX, '-p', folder, '-c', file, '-g', 'daemon off;'],
  },
  {
    name: 'haproxy',
    missing: skipReason('haproxy', '-v'),
    files: ['deploy/haproxy/haproxy.cfg'],
    adapt: (text, { folder, port, tlsPort }) =>
      text
        .replace(/\nresolvers docker\n( .*\n)+/, '\n')
        .replaceAll(' resolvers docker init-addr none', '')
        .replace('  default-server\n', '')
        // Takes a `#` in a path, as versions without the fix of CVE-2023-45539 do.
        .replace('  option http-keep-alive', '  option http-keep-alive\n  option accept-invalid-http-request')
        // The limit of open files of the machine may be lower.
        .replace('maxconn 16384', 'maxconn 2000')
        .replace('bind :8080', `bind 127.0.0.1:${port}`)
        .replace(
          '# bind :8443 ssl crt /etc/haproxy/sluice.pem',
          `bind 127.0.0.1:${tlsPort} ssl crt ${folder}/both.pem`,
        ),
    command: (file) => ['haproxy', '-db', '-f', file],
  },
  {
    name: 'caddy',
    missing: skipReason('caddy', 'version'),
    // https://github.com/caddyserver/caddy/issues/7546, in versions before 2.11.2.
    repeatsUnsentPost: false,
    files: ['deploy/caddy/Caddyfile'],
    adapt(text, { folder, port, tlsPort }) {
      const start = text.indexOf('\n:8080 {') + 1;
      const site = text.slice(start);
      const withTls = site.replace(
        ':8080 {',
        `https://127.0.0.1:${tlsPort} {\n\ttls ${folder}/cert.pem ${folder}/key.pem`,
      );
      const options = text.slice(0, start).replace('admin off', 'admin off\n\tauto_https disable_redirects');
      return options + site.replace(':8080 {', `http://127.0.0.1:${port} {`) + withTls;
    },
    command: (file) => ['caddy', 'run', '--adapter', 'caddyfile', '--config', file],
  },
  {
    name: 'apache',
    missing: skipReason('apache2', '-v'),
    files: ['deploy/apache/httpd.conf', 'deploy/apache/sluice.lua'],
    adapt: (text, { folder, port, tlsPort }) =>
      text
        .replaceAll(/\/(run\/apache2|etc\/apache2\/sluice)\b/g, folder)
        .replace('Listen 8080', `Listen 127.0.0.1:${port}`)
        .replace(/^# (?=Listen 8443|<\/?VirtualHost| {2}SSL)/gm, '')
        .replace('Listen 8443', `Listen 127.0.0.1:${tlsPort}`)
        .replace('<VirtualHost *:8443>', `<VirtualHost 127.0.0.1:${tlsPort}>`),
    command: (file) => ['apache2', '-D', 'FOREGROUND', '-f', file],
  },
  {
    name: 'varnish',
    missing: skipReason('varnishd', '-V'),
    tls: false,
    files: ['deploy/varnish/start.sh', 'deploy/varnish/default.vcl'],
    adapt: (text, { folder, port }) =>
      text
        .replace('/var/lib/varnish/sluice', `${folder}/varnish`)
        .replace('/etc/varnish/default.vcl', `${folder}/default.vcl`)
        // The user of the package cannot read the folder of the test.
        .replace('exec varnishd', 'exec varnishd -j none')
        .replace('-a :8080', `-a 127.0.0.1:${port}`),
    command: (file) => ['sh', file],
  },
];

/** Starts a gateway in front of two replicas. The process is ended when the test ends. */
export async function startGateway(t: Test, kind: GatewayKind, options: GatewayOptions): Promise<Gateway> {
  const folder = mkdtempSync(join(tmpdir(), `${kind.name}-`));
  const [port, tlsPort] = [await freePort(), await freePort()];
  const files = { folder, port, tlsPort };
  for (const [name, text] of [
    ['cert.pem', CERT],
    ['key.pem', KEY],
    ['both.pem', `${CERT}\n${KEY}\n`],
  ] as const)
    writeFileSync(join(folder, name), text);
  const [first, second] = options.replicas;
  const written = kind.files.map((shipped) => {
    const text = kind
      .adapt(readFileSync(shipped, 'utf8'), files)
      .replaceAll('sluice-1:3000', `127.0.0.1:${first}`)
      .replaceAll('sluice-2:3000', `127.0.0.1:${second}`)
      .replaceAll('/dev/stdout', `${folder}/access.log`)
      .replaceAll('/dev/stderr', `${folder}/error.log`)
      .replace(/\b620(?=s?\b)/g, String(options.idleS ?? 620));
    const file = join(folder, basename(shipped));
    writeFileSync(file, text);
    return file;
  });
  // Some gateways read files as a user of their own.
  chmodSync(folder, 0o755);
  const output = openSync(join(folder, 'output.log'), 'a');
  const [command, ...args] = kind.command(written[0] as string, files);
  const child = spawn(command, args, {
    // A process group, because gateways have processes of their own, which `kill -9` of the first one leaves.
    detached: true,
    stdio: ['ignore', output, output],
    env: { ...process.env, HOME: folder, XDG_DATA_HOME: folder, XDG_CONFIG_HOME: folder },
  });
  closeSync(output);
  const log = () =>
    ['access', 'error', 'output']
      .map((name) => join(folder, `${name}.log`))
      .map((path) => (existsSync(path) ? readFileSync(path, 'utf8') : ''))
      .join('');
  t.teardown(async () => {
    await end(child);
    rmSync(folder, { recursive: true, force: true });
  });
  await until(async () => {
    if (child.exitCode !== null) throw new Error(`${kind.name} does not start: ${log()}`);
    return (await isOpen(port)) && (kind.tls === false || (await isOpen(tlsPort)));
  }, `${kind.name} accepts connections`);
  const tlsUrl = kind.tls === false ? undefined : `https://127.0.0.1:${tlsPort}`;
  return { url: `http://127.0.0.1:${port}`, tlsUrl, log };
}

async function end(child: ChildProcess): Promise<void> {
  const exited = child.exitCode !== null || child.signalCode !== null ? undefined : once(child, 'exit');
  try {
    process.kill(-(child.pid as number), 'SIGKILL');
  } catch {
    // No process of the group is left.
  }
  await exited;
}
