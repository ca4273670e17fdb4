import { randomBytes } from 'node:crypto';
import { hashKey } from '../plugins/auth/api-keys.ts';

/** `npm run key -- name`: a new key, to be given away once, and the lines that let it in. */

const [, , name = 'web'] = process.argv;
const key = `sk-sluice-${randomBytes(32).toString('base64url')}`;

console.log(`The key, which is stored nowhere:

  ${key}

For the file that CONFIG_FILE names:

keys:
  - { name: ${JSON.stringify(name)}, sha256: ${hashKey(key)} }`);
