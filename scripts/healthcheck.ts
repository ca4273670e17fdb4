import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { connect } from 'node:net';

/**
 * Checks that the service in this container answers; exits 0 or 1. Usage: `node dist/scripts/healthcheck.js [pid]`
 *
 * Finds the listening socket of the service in /proc. So the check needs no configuration, whose file may have changed
 * since the start, and it is right for every address and port. Uses a bare socket: `fetch` takes twice the CPU time,
 * and may follow `NODE_USE_ENV_PROXY`.
 */

const TIMEOUT_MS = 2_500;
/** State of a listening socket in /proc/net/tcp. */
const LISTEN = '0A';

interface Address {
  readonly host: string;
  readonly port: number;
}

/** Returns the ids of all processes that run the service. */
function findProcesses(): string[] {
  return readdirSync('/proc').filter((pid) => {
    return /^\d+$/.test(pid) && /(^|[/\0])server\.js(\0|$)/.test(read(`/proc/${pid}/cmdline`));
  });
}

/** Returns the first TCP address at which a process listens. */
function findAddress(pid: string): Address | undefined {
  const listening = new Map<string, Address>();
  for (const table of ['tcp', 'tcp6']) {
    for (const line of read(`/proc/${pid}/net/${table}`).split('\n').slice(1)) {
      const [, local = '', , state, , , , , , inode = ''] = line.trim().split(/\s+/);
      if (state === LISTEN) listening.set(`socket:[${inode}]`, parseAddress(local));
    }
  }
  for (const fd of list(`/proc/${pid}/fd`)) {
    const address = listening.get(link(`/proc/${pid}/fd/${fd}`));
    if (address !== undefined) return address;
  }
  return undefined;
}

/** Parses an address of /proc/net/tcp, in 32-bit words of the machine's byte order. A wildcard becomes the loopback address. */
function parseAddress(text: string): Address {
  const [hex = '', port = ''] = text.split(':');
  const words = hex.match(/.{8}/g) ?? [];
  const bytes = words.flatMap((word) => [...Buffer.from(word, 'hex').reverse()]);
  const isWildcard = bytes.every((byte) => byte === 0);
  const host =
    bytes.length === 4
      ? isWildcard
        ? '127.0.0.1'
        : bytes.join('.')
      : isWildcard
        ? '::1'
        : (Buffer.from(bytes).toString('hex').match(/.{4}/g) ?? []).join(':');
  return { host, port: Number.parseInt(port, 16) };
}

/**
 * Requests the liveness probe. Resolves to true for every status below 500: where the configuration file sets a base
 * path, the service answers 404.
 */
function answers({ host, port }: Address): Promise<boolean> {
  return new Promise((resolve) => {
    let head = '';
    const socket = connect({ host, port });
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy());
    socket.on('connect', () => {
      socket.write(`GET ${findBasePath()}/livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
    });
    socket.on('data', (bytes) => {
      head += bytes.toString('latin1');
      if (head.length < 'HTTP/1.1 200'.length) return;
      resolve(/^HTTP\/1\.1 [234]/.test(head));
      socket.destroy();
    });
    socket.on('error', () => {}).on('close', () => resolve(false));
  });
}

/** Returns the base path if it is plain to see. A wrong one costs a line in the access log, and not the check. */
function findBasePath(): string {
  const inFile = /^\s*["']?basePath["']?\s*:\s*["']?(\/[\w.~/-]*)/m;
  return process.env.BASE_PATH || inFile.exec(read(process.env.CONFIG_FILE ?? ''))?.[1] || '';
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function link(file: string): string {
  try {
    return readlinkSync(file);
  } catch {
    return '';
  }
}

const [, , pid] = process.argv;
const addresses = (pid === undefined ? findProcesses() : [pid]).map(findAddress);
const results = await Promise.all(addresses.map((address) => address !== undefined && answers(address)));
process.exitCode = results.includes(true) ? 0 : 1;
