import { closeSync, openSync } from 'node:fs';

/** Loaded into the service by a test. SIGWINCH opens files until no descriptor is free, and closes them the next time. */
const taken = [];
process.on('SIGWINCH', () => {
  if (taken.length > 0) return taken.splice(0).forEach(closeSync);
  try {
    for (;;) taken.push(openSync('/dev/null', 'r'));
  } catch {}
});
