import type { ProviderState } from '../plugins/streams/api.ts';

/**
 * The state of a provider in messages of clients: `reasoning_details` of a message and `extra_content` of its tool
 * calls, as OpenRouter and Google's compatible endpoint have established them. Each carries the name of the provider
 * that wants it back, because it is sent to no other one.
 */

type Fields = Readonly<Record<string, unknown>>;
type Detail = NonNullable<ProviderState['details']>[number];

/** Returns the `reasoning_details` of a message; undefined if there are none. */
export function detailsForClient({ provider, details }: ProviderState): Fields[] | undefined {
  return details?.map((detail) => ({ ...detail, provider }));
}

/** Returns the `extra_content` of a tool call; undefined if it has none. */
export function extraContentForClient({ provider, extraContent }: ProviderState, call: number): Fields | undefined {
  const content = extraContent?.[call];
  return content && { ...content, sluice: { provider } };
}

/**
 * Returns the state of a message as a client has sent it back. Parts without the name of their provider are left out:
 * Sluice still finds them by the id of the tool call, as long as the stream is stored.
 */
export function stateFromClient(
  details: readonly Fields[],
  extraContents: readonly (Fields | null | undefined)[],
): ProviderState | undefined {
  let provider: string | undefined;
  const belongs = (name: unknown) => {
    if (typeof name === 'string') provider ??= name;
    return typeof name === 'string' && name === provider;
  };
  const ownDetails = details.flatMap(({ provider: name, ...detail }) =>
    typeof detail.type === 'string' && belongs(name) ? [detail as Detail] : [],
  );
  const extraContent = Object.fromEntries(
    extraContents.flatMap((content, call) => {
      const { sluice, ...own } = content ?? {};
      return belongs((sluice as Fields | null | undefined)?.provider) ? [[call, own]] : [];
    }),
  );
  if (provider === undefined) return undefined;
  return {
    provider,
    ...(ownDetails.length > 0 && { details: ownDetails }),
    ...(Object.keys(extraContent).length > 0 && { extraContent }),
  };
}
