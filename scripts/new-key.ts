import { randomBytes } from 'node:crypto';
import { hashKey } from '../plugins/auth/api-keys.ts';

/** Prints a new API key and the lines of the configuration that allow it. Usage: `npm run key -- <name>` */

const [, , name = 'web'] = process.argv;
const key = `sk-sluice-${randomBytes(32).toString('base64url')}`;

console.log(`The key. It is not stored anywhere:

  ${key}

Add to the file of CONFIG_FILE:

keys:
  - { name: ${JSON.stringify(name)}, sha256: ${hashKey(key)} }`);
