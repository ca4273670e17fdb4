import { createHash } from 'node:crypto';
import type { ChatMessage, ProviderState } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { Cluster } from '../redis/index.ts';

/**
 * Keeps what providers want back with tool calls, for clients that do not return it: by owner and id of the tool call,
 * as long as the stream is stored. With Redis, other replicas find it, too.
 */
export interface AnswerStates {
  /** Keeps the state of an answer with these tool calls. Never throws. */
  save(owner: string, toolCallIds: readonly string[], state: ProviderState): void;
  /** Returns true if tool calls came back without their state. */
  isMissing(messages: readonly ChatMessage[]): boolean;
  /** Returns the messages; those with tool calls that came back without their state get it again. Never rejects. */
  restore(owner: string, messages: readonly ChatMessage[]): Promise<readonly ChatMessage[]>;
}

export interface AnswerStatesOptions {
  readonly ttlMs: number;
  readonly clock: Clock;
  readonly cluster: Cluster | undefined;
}

/** A longer state is not kept. Encrypted reasoning has some ten thousand characters. */
const MAX_STATE_CHARS = 1_048_576;
/** Bound of the memory of this replica. The oldest states go first. */
const MAX_TOTAL_CHARS = 33_554_432;

interface Kept {
  readonly state: ProviderState;
  readonly chars: number;
  readonly expiresAt: number;
}

export function createAnswerStates({ ttlMs, clock, cluster }: AnswerStatesOptions): AnswerStates {
  /** In the order of their expiry. */
  const kept = new Map<string, Kept>();
  let totalChars = 0;

  const remove = (name: string) => {
    totalChars -= kept.get(name)?.chars ?? 0;
    kept.delete(name);
  };
  const removeOld = () => {
    for (const [name, { expiresAt }] of kept) {
      if (expiresAt > clock.now() && totalChars <= MAX_TOTAL_CHARS) return;
      remove(name);
    }
  };
  const keep = (name: string, state: ProviderState, chars: number) => {
    remove(name);
    kept.set(name, { state, chars, expiresAt: clock.now() + ttlMs });
    totalChars += chars;
    removeOld();
  };

  /** Returns the states of names that this replica does not have, from Redis. */
  const readShared = async (names: readonly string[]): Promise<(ProviderState | undefined)[]> => {
    if (cluster === undefined || names.length === 0) return [];
    try {
      const texts = await cluster.connection.run((redis) =>
        Promise.all(names.map((name) => redis.get(cluster.key('state', name)))),
      );
      return texts.map((text) => (text === null ? undefined : (JSON.parse(text) as ProviderState)));
    } catch {
      // Without Redis, the provider gets no state, as from a client that has lost it.
      return [];
    }
  };

  return {
    save(owner, toolCallIds, state) {
      const text = JSON.stringify(state);
      if (text.length > MAX_STATE_CHARS) return;
      for (const id of toolCallIds) {
        const name = nameOf(owner, id);
        keep(name, state, text.length);
        cluster?.connection.run((redis) => redis.set(cluster.key('state', name), text, 'PX', ttlMs)).catch(() => {});
      }
    },
    isMissing: (messages) => messages.some(lacksState),
    async restore(owner, messages) {
      removeOld();
      const names = new Map<ChatMessage, string>();
      for (const message of messages) {
        const [call] = lacksState(message) ? (message.toolCalls ?? []) : [];
        if (call) names.set(message, nameOf(owner, call.id));
      }
      const missing = [...names.values()].filter((name) => !kept.has(name));
      const found = await readShared(missing);
      const stateOf = (message: ChatMessage): ProviderState | undefined => {
        const name = names.get(message);
        if (name === undefined) return undefined;
        return kept.get(name)?.state ?? found[missing.indexOf(name)];
      };
      return messages.map((message) => {
        const state = stateOf(message);
        return state ? { ...message, state } : message;
      }) as ChatMessage[];
    },
  };
}

function lacksState(message: ChatMessage): message is Extract<ChatMessage, { role: 'assistant' }> {
  return message.role === 'assistant' && message.toolCalls !== undefined && message.state === undefined;
}

/** Returns a name without the owner and the id, which clients choose. */
function nameOf(owner: string, toolCallId: string): string {
  return createHash('sha256').update(`${owner}\n${toolCallId}`).digest('base64url');
}
