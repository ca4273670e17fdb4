import { spawn } from 'node:child_process';

/** Compiles on every change, and restarts the service when its compiled files change. */

const run = (args, env) => spawn(process.execPath, args, { stdio: 'inherit', env: { ...env, ...process.env } });

const children = [
  run(['node_modules/typescript-native/bin/tsc', '-p', '.', '--watch', '--preserveWatchOutput']),
  // No drain: a restart does not wait for open streams.
  run(['--watch', '--watch-preserve-output', '--enable-source-maps', 'build/server.js'], { DRAIN_MS: '0' }),
];

for (const child of children) {
  child.on('exit', (code) => {
    for (const other of children) other.kill();
    process.exitCode ??= code ?? 0;
  });
}
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    for (const child of children) child.kill(signal);
  });
}
