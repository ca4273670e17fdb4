import { readFileSync } from 'node:fs';
import t from 'tap';

/** Checks what the Dockerfile needs of the repository. The image itself is built by the workflow. */

const read = (file: string): string => readFileSync(file, 'utf8');

t.test('the build in the image gets every folder that it compiles', (t) => {
  const allowed = new Set(read('.dockerignore').match(/(?<=^!).+/gm));
  // The image has no benchmarks.
  allowed.add('bench');
  for (const project of ['tsconfig.build.json', 'tsconfig.client.json']) {
    for (const path of (JSON.parse(read(project)) as { include: string[] }).include)
      t.ok(allowed.has(path.split('/')[0] ?? ''), `${project} compiles ${path}`);
  }
  t.end();
});

t.test('the image has no shell, so nothing that runs in it needs one', (t) => {
  const lastStage =
    read('Dockerfile')
      .split(/^FROM /m)
      .at(-1) ?? '';
  t.match(lastStage, /^scratch\n/);
  t.match(lastStage, /^USER 1000:1000$/m, 'the user is a number, as runAsNonRoot needs');
  t.notMatch(lastStage, /^RUN /m);
  for (const [command = ''] of lastStage.matchAll(/^(?: *)CMD .*$/gm)) t.match(command, /CMD \["node", /);
  t.match(lastStage, /CMD \["node", "dist\/bundle\/server.js"\]/, 'the bundle is what runs');
  t.match(read('Dockerfile'), /^RUN npm run bundle$/m);
  t.notMatch(read('deploy/kubernetes.yaml'), /\bexec:/, 'Kubernetes runs no command in it');
  t.end();
});
