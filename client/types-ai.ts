import type { ReadOptions } from './types.ts';

/** Types of the transport for `useChat`. */

export interface TransportOptions extends ReadOptions {
  /** Fields of each question beside the messages, such as `model` or `tools`. */
  readonly body?: object;
}

export interface CallMetadata {
  readonly [provider: string]: { readonly [field: string]: never };
}

/** Chunks of the UI message stream that this transport makes; opening chunks come from the service. */
export type UiChunk =
  | { type: 'start'; messageId?: string; messageMetadata?: unknown }
  | { type: 'start-step' | 'finish-step' }
  | { type: 'text-start' | 'text-end' | 'reasoning-start' | 'reasoning-end'; id: string }
  | { type: 'text-delta' | 'reasoning-delta'; id: string; delta: string }
  | { type: 'tool-input-start'; toolCallId: string; toolName: string }
  | { type: 'tool-input-delta'; toolCallId: string; inputTextDelta: string }
  | {
      type: 'tool-input-available';
      toolCallId: string;
      toolName: string;
      input: unknown;
      providerMetadata?: CallMetadata;
    }
  | {
      type: 'tool-input-error';
      toolCallId: string;
      toolName: string;
      input: unknown;
      errorText: string;
      providerMetadata?: CallMetadata;
    }
  | {
      type: 'finish';
      finishReason: 'stop' | 'length' | 'tool-calls' | 'content-filter' | 'other';
      messageMetadata?: unknown;
    }
  | { type: 'error'; errorText: string };

export interface Request {
  readonly chatId: string;
  readonly messages?: readonly { readonly metadata?: unknown }[];
  readonly abortSignal?: AbortSignal | undefined;
  readonly headers?: Record<string, string> | Headers | undefined;
  readonly body?: object | undefined;
}

/** Has the methods of `ChatTransport`, without a dependency on the package `ai`. */
export interface Transport {
  /** True: a reconnect gives the answer from its start. */
  readonly resumeStreamIsReplay: boolean;
  /** Asks. Aborting stops the answer at the service. */
  sendMessages(request: Request & { readonly messages: readonly object[] }): Promise<ReadableStream<UiChunk>>;
  /** Reads the running answer of the conversation; null if there is none. */
  reconnectToStream(request: Request): Promise<ReadableStream<UiChunk> | null>;
}
