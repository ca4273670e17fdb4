/**
 * Returns the first duplicate key of an object in valid JSON; `JSON.parse` would take its last value.
 * One pass, linear in the length of the text.
 */
export function duplicateKey(json: string): string | undefined {
  const open: (Set<string> | undefined)[] = [];
  for (let i = 0; i < json.length; i++) {
    const char = json[i];
    if (char === '{') open.push(new Set());
    else if (char === '[') open.push(undefined);
    else if (char === '}' || char === ']') open.pop();
    else if (char === '"') {
      const end = endOfString(json, i);
      const keys = open.at(-1);
      if (keys !== undefined && isKey(json, end)) {
        const key = JSON.parse(json.slice(i, end + 1)) as string;
        if (keys.has(key)) return key;
        keys.add(key);
      }
      i = end;
    }
  }
  return undefined;
}

function endOfString(json: string, start: number): number {
  let end = json.indexOf('"', start + 1);
  while (isEscaped(json, end)) end = json.indexOf('"', end + 1);
  return end;
}

function isEscaped(json: string, quote: number): boolean {
  let at = quote - 1;
  while (json[at] === '\\') at -= 1;
  return (quote - 1 - at) % 2 === 1;
}

function isKey(json: string, end: number): boolean {
  let at = end + 1;
  while (json[at] === ' ' || json[at] === '\n' || json[at] === '\r' || json[at] === '\t') at += 1;
  return json[at] === ':';
}

/** Bounds that no real question reaches. Parsing more would block the event loop. */
const MAX_DEPTH = 64;
const MAX_CONTAINERS = 100_000;
const MAX_MEMBERS = 200_000;

/** Returns true if the text has too many objects, arrays or members, or too deep ones. Works on any text, before parsing; linear. */
export function isTooComplex(text: string): boolean {
  let depth = 0;
  let containers = 0;
  let separators = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === 0x22) {
      i = endOfString(text, i);
      if (i < 0) return false; // Not JSON; the parser reports it.
    } else if (char === 0x7b || char === 0x5b) {
      depth += 1;
      containers += 1;
      if (depth > MAX_DEPTH || containers > MAX_CONTAINERS) return true;
    } else if (char === 0x7d || char === 0x5d) depth -= 1;
    else if (char === 0x2c || char === 0x3a) {
      // An item has at most one comma, a member of an object a colon besides.
      separators += 1;
      if (separators > MAX_MEMBERS) return true;
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
