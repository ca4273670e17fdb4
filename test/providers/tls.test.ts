import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo, Server } from 'node:net';
import t, { type Test } from 'tap';
import { createOpenAICompatible } from '../../providers/openai-compatible.ts';
import { networkError } from '../../providers/wire/network-error.ts';
import { CERT, KEY } from '../certificate.ts';
import { captureLog, serve, until, writeConfig } from '../helper.ts';
import { open } from '../sse-client.ts';
import { collect } from './collect.ts';
import { OPTIONS } from './options.ts';

/** Tests that a failed TLS handshake is reported as such, with its code. */

async function listen(t: Test, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  return (server.address() as AddressInfo).port;
}

async function failureOf(t: Test, baseUrl: string): Promise<unknown> {
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl });
  t.teardown(() => provider.close());
  const request = { model: 'm', messages: [{ role: 'user' as const, content: 'q' }] };
  return (await collect(provider.stream(request, new AbortController().signal))).error;
}

t.test('a self-signed certificate is reported with its code, and not retried', async (t) => {
  const port = await listen(t, createServer({ key: KEY, cert: CERT }));
  t.match(await failureOf(t, `https://127.0.0.1:${port}/v1`), {
    code: 'upstream_unreachable',
    reason: 'tls',
    tlsCode: 'DEPTH_ZERO_SELF_SIGNED_CERT',
    retryable: false,
    message: 'The provider could not be reached.',
  });
});

t.test('a server that does not speak TLS is reported as such', async (t) => {
  const port = await listen(t, createHttpServer());
  const fault = await failureOf(t, `https://127.0.0.1:${port}/v1`);
  t.match(fault, { code: 'upstream_unreachable', reason: 'tls', retryable: true });
  t.match((fault as { tlsCode?: string }).tlsCode, /^(EPROTO|ERR_SSL_\w+)$/);
});

t.test('every code of a failed handshake is recognized, and no other', async (t) => {
  const certificate = [
    'DEPTH_ZERO_SELF_SIGNED_CERT',
    'SELF_SIGNED_CERT_IN_CHAIN',
    'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
    'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
    'CERT_HAS_EXPIRED',
    'CERT_NOT_YET_VALID',
    'CERT_REVOKED',
    'UNABLE_TO_GET_CRL',
    'INVALID_CA',
    'INVALID_PURPOSE',
    'HOSTNAME_MISMATCH',
    'ERR_TLS_CERT_ALTNAME_INVALID',
  ];
  const protocol = ['EPROTO', 'ERR_SSL_WRONG_VERSION_NUMBER', 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION'];
  for (const code of [...certificate, ...protocol]) {
    const fault = networkError(Object.assign(new Error('SECRET'), { code }), 'before_headers');
    t.match(fault, { reason: 'tls', tlsCode: code, retryable: protocol.includes(code) }, code);
  }
  for (const code of ['ECONNRESET', 'ECONNREFUSED', 'UND_ERR_SOCKET', 'ENOTFOUND']) {
    const fault = networkError(Object.assign(new Error('SECRET'), { code }), 'before_headers');
    t.match(fault, { tlsCode: undefined }, code);
    t.not((fault as { reason: string }).reason, 'tls', code);
  }
});

t.test('the log line of the stream names the code', async (t) => {
  const port = await listen(t, createServer({ key: KEY, cert: CERT }));
  const yaml = `providers: { p: { type: vllm, baseUrl: "https://127.0.0.1:${port}/v1", models: [m] } }`;
  const { logTo, log } = captureLog();
  const { url } = await serve(t, { env: { CONFIG_FILE: writeConfig(t, yaml) }, logTo });
  const { events, ended } = await open(`${url}/ask/stream?question=q&model=p/m`);
  await ended;
  t.match(events.at(-1)?.json, { type: 'error', code: 'upstream_unreachable', retryable: false });
  await until(() => log().includes('stream ended'), 'the stream is logged');
  const line =
    log()
      .split('\n')
      .find((one) => one.includes('stream ended')) ?? '{}';
  t.match(JSON.parse(line), { reason: 'tls', tlsCode: 'DEPTH_ZERO_SELF_SIGNED_CERT' });
});
