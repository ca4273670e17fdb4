const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** An object that is being read: its first key, and the set of all keys from the second one on. */
interface OpenObject {
  first: string | undefined;
  keys: Set<string> | undefined;
}

/**
 * Returns the first duplicate key of an object in valid JSON; `JSON.parse` would take its last value.
 * One pass, linear in the length of the text.
 */
export function duplicateKey(json: string): string | undefined {
  const open: (OpenObject | undefined)[] = [];
  for (let i = 0; i < json.length; i++) {
    const char = json.charCodeAt(i);
    if (char === QUOTE) {
      const end = endOfString(json, i);
      const object = open.at(-1);
      if (object !== undefined && isKey(json, end)) {
        const key = keyAt(json, i, end);
        if (isDuplicate(object, key)) return key;
      }
      i = end;
    } else if (char === 0x7b) open.push({ first: undefined, keys: undefined });
    else if (char === 0x5b) open.push(undefined);
    else if (char === 0x7d || char === 0x5d) open.pop();
  }
  return undefined;
}

/** Adds a key to an object. Most objects of a question have few, and need no set. */
function isDuplicate(object: OpenObject, key: string): boolean {
  if (object.first === undefined) {
    object.first = key;
    return false;
  }
  object.keys ??= new Set([object.first]);
  if (object.keys.has(key)) return true;
  object.keys.add(key);
  return false;
}

function keyAt(json: string, start: number, end: number): string {
  const raw = json.slice(start + 1, end);
  return raw.includes('\\') ? (JSON.parse(`"${raw}"`) as string) : raw;
}

function endOfString(json: string, start: number): number {
  let end = json.indexOf('"', start + 1);
  while (json.charCodeAt(end - 1) === BACKSLASH && isEscaped(json, end)) end = json.indexOf('"', end + 1);
  return end;
}

function isEscaped(json: string, quote: number): boolean {
  let at = quote - 1;
  while (json.charCodeAt(at) === BACKSLASH) at -= 1;
  return (quote - 1 - at) % 2 === 1;
}

function isKey(json: string, end: number): boolean {
  let at = end + 1;
  for (; ; at++) {
    const char = json.charCodeAt(at);
    if (char !== 0x20 && char !== 0x0a && char !== 0x0d && char !== 0x09) return char === 0x3a;
  }
}

/** Bounds that no real question reaches. Parsing more would block the event loop. */
const MAX_DEPTH = 64;
const MAX_CONTAINERS = 50_000;
const MAX_SEPARATORS = 100_000;
/** Engines keep an object with many members as a hash table, which costs several times as much for each member. */
const MAX_OBJECT_MEMBERS = 10_000;

/**
 * Returns true if the text has too many objects, arrays or members, an object with too many members, or too deep ones.
 * Works on any text, before parsing; linear.
 */
export function isTooComplex(text: string): boolean {
  let depth = 0;
  let containers = 0;
  let separators = 0;
  /** Colons by depth, of the object that is open there. */
  const members: number[] = [0];
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === QUOTE) {
      i = endOfString(text, i);
      if (i < 0) return false; // Not JSON; the parser reports it.
    } else if (char === 0x7b || char === 0x5b) {
      depth += 1;
      containers += 1;
      members[depth] = 0;
      if (depth > MAX_DEPTH || containers > MAX_CONTAINERS) return true;
    } else if (char === 0x7d || char === 0x5d) depth = Math.max(0, depth - 1);
    else if (char === 0x2c || char === 0x3a) {
      // An item has at most one comma, a member of an object a colon besides.
      separators += 1;
      if (separators > MAX_SEPARATORS) return true;
      if (char === 0x2c) continue;
      const count = (members[depth] ?? 0) + 1;
      if (count > MAX_OBJECT_MEMBERS) return true;
      members[depth] = count;
    }
  }
  return false;
}

/** Returns the characters of all string values in parsed JSON, without those of base64 `data:` URLs. Linear. */
export function textLength(value: unknown): number {
  let length = 0;
  const open: unknown[] = [value];
  while (open.length > 0) {
    const item = open.pop();
    if (typeof item === 'string') length += isDataUrl(item) ? 0 : item.length;
    else if (typeof item === 'object' && item !== null) for (const member of Object.values(item)) open.push(member);
  }
  return length;
}

/** Longest text before the data of a `data:` URL. */
const MAX_DATA_URL_HEAD = 256;

function isDataUrl(text: string): boolean {
  return /^data:[\w.+-]{1,64}\/[\w.+-]{1,128};/i.test(text) && text.slice(0, MAX_DATA_URL_HEAD).includes(';base64,');
}
