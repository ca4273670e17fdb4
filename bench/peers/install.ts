import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

/** Installs peers, each once into a folder of its own. */

/** npm keeps this folder until the next clean installation. */
const FOLDER = 'node_modules/.cache/sluice-peers';
/** Written at the end of an installation: what was installed. */
const MARKER = 'installed.json';
const TIMEOUT_MS = 15 * 60_000;

const run = promisify(execFile);

/** Runs a command. @throws Error with the last line of its output */
async function runCommand(command: string, args: readonly string[], cwd: string): Promise<void> {
  try {
    await run(command, args, { cwd, timeout: TIMEOUT_MS, maxBuffer: 64 * 1024 * 1024 });
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    throw new Error(`${command}: ${stderr?.trim().split('\n').at(-1) || message}`);
  }
}

/** Returns the folder of a peer. Empties it and calls `install` unless it has what `wanted` describes. */
async function installOnce(name: string, wanted: unknown, install: (folder: string) => Promise<void>): Promise<string> {
  const folder = join(process.cwd(), FOLDER, name);
  const marker = join(folder, MARKER);
  const text = JSON.stringify(wanted);
  if (existsSync(marker) && readFileSync(marker, 'utf8') === text) return folder;
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  await install(folder);
  writeFileSync(marker, text);
  return folder;
}

/** Installs packages of PyPI into an environment of their own. */
export function installPython(name: string, packages: readonly string[]): Promise<string> {
  return installOnce(name, packages, async (folder) => {
    await runCommand('python3', ['-m', 'venv', '.'], folder);
    await runCommand(join(folder, 'bin/pip'), ['install', '--quiet', ...packages], folder);
  });
}

/** Installs packages of npm, without their scripts. `overrides` are versions of packages that they depend on. */
export function installNode(
  name: string,
  dependencies: Readonly<Record<string, string>>,
  overrides: Readonly<Record<string, string>> = {},
): Promise<string> {
  const manifest = { private: true, dependencies, overrides };
  return installOnce(name, manifest, async (folder) => {
    writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest));
    await runCommand('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund'], folder);
  });
}

/** Builds a Go program from one commit of a Git repository, as `bin` in its folder. */
export function installGo(name: string, repository: string, commit: string, program: string): Promise<string> {
  return installOnce(name, [repository, commit, program], async (folder) => {
    await runCommand('git', ['clone', '--quiet', repository, 'source'], folder);
    const source = join(folder, 'source');
    await runCommand('git', ['checkout', '--quiet', commit], source);
    await runCommand('go', ['build', '-o', join(folder, 'bin'), program], source);
  });
}
