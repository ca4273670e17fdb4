import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';
import type { Test } from 'tap';

/** A real Chromium, where the machine has one. `CHROMIUM` says where, and that it must be there. */

const PATH = process.env.CHROMIUM ?? '/usr/bin/chromium';

if (process.env.CHROMIUM && !existsSync(PATH)) throw new Error(`CHROMIUM is not there: ${PATH}`);
export const noBrowser = existsSync(PATH) ? false : `no Chromium at ${PATH}; set CHROMIUM`;

export async function launch(t: Test): Promise<Browser> {
  const browser = await chromium.launch({
    executablePath: PATH,
    // The machine may have no network but loopback, and CI runs as root.
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
  t.teardown(() => browser.close());
  return browser;
}
