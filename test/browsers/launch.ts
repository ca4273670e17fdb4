import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import type { Test } from 'tap';
import { launch as launchChromium, noBrowser as noChromium } from '../browser.ts';

/** Real browsers of three engines. They open one page, which runs the test and reports to it. */

export interface TestBrowser {
  readonly name: string;
  /** Reason to skip tests that need this browser; false if it is installed. */
  readonly missing: string | false;
  /** Opens a page. The browser is closed when the test ends. */
  open(t: Test, url: string): Promise<void>;
}

const FIREFOX = ['/usr/bin/firefox-esr', '/usr/bin/firefox'].find((path) => existsSync(path));
/** The browser of Debian's package `webkit2gtk-driver`, which runs the same engine as GNOME Web. */
const WEBKIT = ['x86_64', 'aarch64']
  .map((cpu) => `/usr/lib/${cpu}-linux-gnu/webkit2gtk-4.1/MiniBrowser`)
  .find((path) => existsSync(path));
const XVFB = '/usr/bin/Xvfb';

/** Settings of Firefox: no first page, no requests of its own, and no pause before the network is used. */
const FIREFOX_SETTINGS = {
  'app.normandy.enabled': false,
  'app.update.enabled': false,
  'browser.aboutwelcome.enabled': false,
  'browser.safebrowsing.malware.enabled': false,
  'browser.safebrowsing.phishing.enabled': false,
  'browser.shell.checkDefaultBrowser': false,
  'browser.startup.homepage_override.mstone': 'ignore',
  'datareporting.policy.dataSubmissionEnabled': false,
  'dom.ipc.processCount': 1,
  'extensions.systemAddon.update.enabled': false,
  'network.captive-portal-service.enabled': false,
  'network.connectivity-service.enabled': false,
  'network.manage-offline-status': false,
  'toolkit.telemetry.enabled': false,
};

export const chromium: TestBrowser = {
  name: 'Chromium',
  missing: noChromium,
  async open(t, url) {
    await (await (await launchChromium(t)).newPage()).goto(url);
  },
};

export const firefox: TestBrowser = {
  name: 'Firefox',
  missing: FIREFOX ? false : 'no Firefox; install firefox-esr',
  async open(t, url) {
    const home = makeHome(t);
    const settings = Object.entries(FIREFOX_SETTINGS).map(
      ([name, value]) => `user_pref("${name}", ${JSON.stringify(value)});`,
    );
    writeFileSync(join(home, 'user.js'), settings.join('\n'));
    start(t, FIREFOX as string, ['--headless', '--no-remote', '--profile', home, url], { HOME: home });
  },
};

export const webkit: TestBrowser = {
  name: 'WebKit',
  missing: WEBKIT && existsSync(XVFB) ? false : 'no WebKit; install webkit2gtk-driver and xvfb',
  async open(t, url) {
    const home = makeHome(t);
    const server = start(t, XVFB, ['-displayfd', '3', '-screen', '0', '800x600x24', '-nolisten', 'tcp'], {});
    const [display] = (await once(server.stdio[3] as Readable, 'data')) as [Buffer];
    const env = { HOME: home, XDG_RUNTIME_DIR: home, DISPLAY: `:${display.toString().trim()}`, GDK_BACKEND: 'x11' };
    start(t, WEBKIT as string, ['--private', url], { ...env, LIBGL_ALWAYS_SOFTWARE: '1', NO_AT_BRIDGE: '1' });
  },
};

function makeHome(t: Test): string {
  const home = mkdtempSync(join(tmpdir(), 'browser-'));
  t.teardown(() => rmSync(home, { recursive: true, force: true, maxRetries: 3 }));
  return home;
}

/** Starts a program in a process group of its own, which is killed when the test ends. */
function start(t: Test, program: string, args: string[], env: Record<string, string>): ChildProcess {
  const child = spawn(program, args, {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
    detached: true,
    env: { ...process.env, ...env },
  });
  t.teardown(async () => {
    if (child.pid === undefined || child.exitCode !== null) return;
    process.kill(-child.pid, 'SIGKILL');
    await once(child, 'exit');
  });
  return child;
}
