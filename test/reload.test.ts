import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import t from 'tap';
import { until } from './helper.ts';
import { runServer } from './process.ts';

t.test('SIGHUP reads keys and models anew, and a wrong file changes nothing', async (t) => {
  const file = `${t.testdir({ 'c.yaml': '' })}/c.yaml`;
  const write = (name: string, model: string, more = '') => {
    const sha256 = createHash('sha256').update(name).digest('hex');
    writeFileSync(
      file,
      `keys: [{ name: ${name}, sha256: ${sha256} }]\nproviders: { demo: { type: demo } }\nmodels: [{ name: ${model}, targets: [{ provider: demo, model: x }] }]\n${more}`,
    );
  };
  write('old', 'one');
  const server = await runServer(t, { CONFIG_FILE: file });
  const models = async (key: string) => {
    const response = await fetch(`${server.url}/v1/models`, { headers: { authorization: `Bearer ${key}` } });
    if (response.status !== 200) return response.status;
    return ((await response.json()) as { data: { id: string }[] }).data.map(({ id }) => id);
  };
  const reload = async (message: RegExp) => {
    const before = server.lines.length;
    server.child.kill('SIGHUP');
    await until(() => server.lines.slice(before).some(({ msg }) => message.test(String(msg))), String(message));
  };
  t.same([await models('old'), await models('new')], [['one'], 401]);

  write('new', 'two');
  await reload(/configuration reloaded/);
  t.same([await models('old'), await models('new')], [401, ['two']]);

  write('third', 'three', 'nonsense: CANARY\n');
  await reload(/nothing has changed/);
  t.same([await models('third'), await models('new')], [401, ['two']]);
  writeFileSync(file, '');
  await reload(/nothing has changed/);
  t.equal((await fetch(`${server.url}/v1/models`)).status, 401, 'a file that is empty for a moment opens no door');
  t.match(JSON.stringify(server.lines.find(({ level }) => level === 50)), /nonsense/, 'what is wrong is said');
  t.notMatch(JSON.stringify(server.lines), /CANARY/, 'but no value');
});
