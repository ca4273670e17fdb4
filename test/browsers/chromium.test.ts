import t from 'tap';
import { assertCutsAreExact } from './cuts.ts';
import { chromium as browser } from './launch.ts';

t.test(
  `${browser.name} reads answers exactly through connections that are cut`,
  { skip: browser.missing, timeout: 120_000 },
  (t) => assertCutsAreExact(t, browser, 40),
);
