import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { codeBlock } from '../code-blocks.ts';
import { serve, writeConfig } from '../helper.ts';
import { completeAnswer, startUpstream } from '../upstream.ts';
import { noClients } from './packages.ts';

/** Runs the examples of docs/clients/ that are programs, as the pages show them. */

const run = promisify(execFile);

const DELTAS = ['one ', '二 ', 'three'];

async function serveDemo(t: Test): Promise<string> {
  const upstream = await startUpstream(t, completeAnswer(...DELTAS));
  const config = { providers: { demo: { type: 'vllm', baseUrl: `${upstream.url}/v1`, models: ['demo'] } } };
  return (await serve(t, { env: { CONFIG_FILE: writeConfig(t, JSON.stringify(config)) } })).url;
}

/** Returns the example of a page, for a service at `url`. */
function example(page: string, language: string, url: string): string {
  const source = readFileSync(`docs/clients/${page}.md`, 'utf8');
  return codeBlock(source, language, 'localhost:3000').replaceAll('http://localhost:3000', url);
}

/** Beside the packages, so that the imports of the examples find them. */
const FOLDER = join('test', 'clients', 'node_modules', '.examples');

t.test('the examples for Node print the answer', { skip: noClients }, async (t) => {
  const url = await serveDemo(t);
  mkdirSync(FOLDER, { recursive: true });
  await Promise.all(
    ['openai', 'langchain', 'llamaindex', 'eventsource'].map(async (page) => {
      const file = join(FOLDER, `${page}.mjs`);
      writeFileSync(file, example(page, 'js', url));
      const { stdout } = await run(process.execPath, [file], { env: { PATH: process.env.PATH } });
      t.equal(stdout, DELTAS.join(''), page);
    }),
  );
});

t.test('the example for curl prints the events', async (t) => {
  const { stdout } = await run('sh', ['-c', example('other-languages', 'sh', await serveDemo(t))]);
  t.match(stdout, /^data: \{"type":"end","answer":"one 二 three".*\nid: \S+\.end\n\n/m);
  t.notMatch(stdout, /^id: .*\ndata: /m, 'an id is behind its data: fetch-event-source reports it at once');
});
