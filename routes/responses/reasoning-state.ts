import type { ProviderState } from '../../plugins/streams/api.ts';
import { stateFromClient } from '../provider-state.ts';

/**
 * The state of a provider as `encrypted_content` of a reasoning item. OpenAI defines that field as opaque, so clients
 * return it as it is. It names the provider that wants it back; a value of another service is not understood and left out.
 */

type Fields = Readonly<Record<string, unknown>>;

const PREFIX = 'sluice1.';

/** @param callIds ids of the tool calls by their index in the answer */
export function encodeState(
  { provider, details, extraContent = {} }: ProviderState,
  callIds: ReadonlyMap<number, string>,
): string {
  const byCallId = Object.entries(extraContent).map(([index, content]) => [callIds.get(Number(index)) ?? '', content]);
  const value = { provider, ...(details && { details }), ...(byCallId.length > 0 && { calls: byCallId }) };
  return PREFIX + Buffer.from(JSON.stringify(value)).toString('base64url');
}

/**
 * Returns the state that reasoning items of one turn hold.
 * @param callIds ids of the tool calls of the turn, in order
 */
export function decodeStates(contents: readonly string[], callIds: readonly string[]): ProviderState | undefined {
  const values = contents.map(parse).filter(isFields);
  const details = values.flatMap(({ provider, details: list }) =>
    Array.isArray(list) ? list.filter(isFields).map((detail): Fields => ({ ...detail, provider })) : [],
  );
  const byCallId = new Map<unknown, Fields>();
  for (const { provider, calls } of values) {
    if (!Array.isArray(calls)) continue;
    for (const entry of calls) {
      const [id, content] = Array.isArray(entry) ? entry : [];
      if (isFields(content)) byCallId.set(id, { ...content, sluice: { provider } });
    }
  }
  return stateFromClient(
    details,
    callIds.map((id) => byCallId.get(id)),
  );
}

function parse(content: string): Fields | undefined {
  if (!content.startsWith(PREFIX)) return undefined;
  try {
    const value: unknown = JSON.parse(Buffer.from(content.slice(PREFIX.length), 'base64url').toString());
    return isFields(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
