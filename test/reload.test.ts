import { writeFileSync } from 'node:fs';
import t from 'tap';
import { bearer, sha256, until, writeConfig } from './helper.ts';
import { runServer } from './process.ts';

t.test('SIGHUP reloads keys and models; an invalid file changes nothing', async (t) => {
  const file = writeConfig(t, '');
  /** Writes a configuration with one key, called like its name, and one model. */
  const write = (name: string, model: string, invalidLine = '') => {
    writeFileSync(
      file,
      `keys: [{ name: ${name}, sha256: ${sha256(name)} }]\nproviders: { demo: { type: demo } }\nmodels: [{ name: ${model}, targets: [{ provider: demo, model: x }] }]\n${invalidLine}`,
    );
  };
  write('old', 'one');
  const server = await runServer(t, { CONFIG_FILE: file });
  /** Returns the models of a key, or the status if the key is refused. */
  const models = async (key: string) => {
    const response = await fetch(`${server.url}/v1/models`, { headers: bearer(key) });
    if (response.status !== 200) return response.status;
    return ((await response.json()) as { data: { id: string }[] }).data.map(({ id }) => id);
  };
  const reload = async (message: RegExp) => {
    const before = server.lines.length;
    server.child.kill('SIGHUP');
    await until(
      () => server.lines.slice(before).some(({ msg }) => message.test(String(msg))),
      `the log has ${message}`,
    );
  };
  t.same([await models('old'), await models('new')], [['one'], 401], 'before the reload');

  write('new', 'two');
  await reload(/configuration reloaded/);
  t.same([await models('old'), await models('new')], [401, ['two']], 'the new key and model are valid');

  write('third', 'three', 'nonsense: CANARY\n');
  await reload(/nothing has changed/);
  t.same([await models('third'), await models('new')], [401, ['two']], 'an invalid file changes nothing');
  writeFileSync(file, '');
  await reload(/nothing has changed/);
  t.equal(
    (await fetch(`${server.url}/v1/models`)).status,
    401,
    'a file that is empty during the reload does not disable authentication',
  );
  t.match(
    JSON.stringify(server.lines.find(({ level }) => level === 50)),
    /nonsense/,
    'the log names the invalid setting',
  );
  t.notMatch(JSON.stringify(server.lines), /CANARY/, 'the log has no value of the file');
});
