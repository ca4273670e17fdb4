/**
 * Names of owners: `key:<name>` for a key, `jwt:<hash>` for the subject of a token, and `<either>#<hash>` for a visitor
 * of one of these. They stand in logs and in Redis, so none of them is a secret.
 */

const KEY_PREFIX = 'key:';
const VISITOR_SEPARATOR = '#';

/** Returns the owner that a key of this name is. */
export function ownerOfKey(name: string): string {
  return `${KEY_PREFIX}${name}`;
}

/** Returns the owner that a visitor is. @param visitor hash of the visitor's name */
export function ownerOfVisitor(holder: string, visitor: string): string {
  return `${holder}${VISITOR_SEPARATOR}${visitor}`;
}

/** Returns the key or subject behind an owner, and the hash of the visitor if the owner is one. */
export function splitOwner(owner: string): { holder: string; visitor: string | undefined } {
  const end = owner.indexOf(VISITOR_SEPARATOR);
  if (end === -1) return { holder: owner, visitor: undefined };
  return { holder: owner.slice(0, end), visitor: owner.slice(end + 1) };
}

/** Returns the name of the key that an owner is or belongs to; undefined for any other owner. */
export function keyNameOf(owner: string): string | undefined {
  const { holder } = splitOwner(owner);
  return holder.startsWith(KEY_PREFIX) ? holder.slice(KEY_PREFIX.length) : undefined;
}
