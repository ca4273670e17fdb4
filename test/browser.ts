import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';
import type { Test } from 'tap';

/** A real Chromium, if the machine has one. `CHROMIUM` sets its path and makes it mandatory. */

const PATH = process.env.CHROMIUM ?? '/usr/bin/chromium';

if (process.env.CHROMIUM && !existsSync(PATH)) throw new Error(`CHROMIUM does not exist: ${PATH}`);
/** Reason to skip tests that need a browser; false if there is one. */
export const noBrowser = existsSync(PATH) ? false : `no Chromium at ${PATH}; set CHROMIUM`;

/**
 * Starts a headless Chromium with more arguments. It is closed when the test ends.
 * @param restoresPages true if a page may come from the back/forward cache. Playwright cannot use such a page.
 */
export async function launch(t: Test, args: readonly string[] = [], restoresPages = false): Promise<Browser> {
  const browser = await chromium.launch({
    executablePath: PATH,
    ...(restoresPages && { ignoreDefaultArgs: ['--disable-back-forward-cache'] }),
    // CI runs as root, and the machine may have no network except loopback.
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      ...args,
    ],
  });
  t.teardown(() => browser.close());
  return browser;
}
