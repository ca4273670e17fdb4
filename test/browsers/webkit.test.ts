import t from 'tap';
import { assertCutsAreExact } from './cuts.ts';
import { webkit as browser } from './launch.ts';

t.test(
  `${browser.name} reads answers exactly through connections that are cut`,
  { skip: browser.missing, timeout: 120_000 },
  (t) => assertCutsAreExact(t, browser, 15),
);
