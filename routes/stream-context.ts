/**
 * Context that a route keeps with a stream, for later readers on any replica. A stream can be read by routes of another
 * API than the one that started it, so the context says whose it is.
 */

export type ContextOwner = 'agui' | 'responses' | 'ui';

/** Returns the context as a string. The caller bounds what it keeps. */
export function encodeContext(owner: ContextOwner, data: object): string {
  return JSON.stringify([owner, data]);
}

/** Returns what `encodeContext` was given; undefined for a stream without a context, and for one of another API. */
export function decodeContext<T extends object>(owner: ContextOwner, context: string | undefined): T | undefined {
  if (context === undefined) return undefined;
  const [foundOwner, data] = JSON.parse(context) as [ContextOwner, T];
  return foundOwner === owner ? data : undefined;
}
