import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import t from 'tap';
import { serve } from './helper.ts';

/** What the README shows runs as it stands there. */

const README = readFileSync('README.md', 'utf8');
const blocks = (language: string) =>
  [...README.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map((match) => match[1] as string);

t.test('the OpenAI SDK pointed at the service', async (t) => {
  const { url } = await serve(t);
  const [snippet] = blocks('js').filter((block) => block.includes("from 'openai'"));
  t.ok(snippet, 'it is there');
  const program = (snippet as string).replace('http://localhost:3000', url);
  t.ok(program.trim().split('\n').length <= 5, 'four lines and the import');
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program]);
  t.match(stdout, /You asked: “hello”.*ask again/s);
});
