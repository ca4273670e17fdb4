/** What every provider takes, and what every provider gives. Imports nothing. */

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface ChatRequest {
  /** The provider's own name of the model, not Sluice's public one. */
  readonly model: string;
  readonly messages: readonly ChatMessage[];
  readonly temperature?: number;
  /** The most tokens the answer may have. */
  readonly maxTokens?: number;
  /** Texts at which the answer ends. */
  readonly stop?: readonly string[];
}

/** Tokens, as the provider counted them; what it does not say is absent. */
export interface Usage {
  readonly inputTokens?: number;
  readonly outputTokens?: number;
  readonly totalTokens?: number;
  readonly reasoningTokens?: number;
  readonly cachedTokens?: number;
}

export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter' | 'other';

export interface TextPart {
  readonly type: 'text' | 'reasoning';
  readonly text: string;
}

/** A fragment of a tool call: `id` and `name` come once, `arguments` are joined by `index`. */
export interface ToolCallPart {
  readonly type: 'tool_call';
  readonly index: number;
  readonly id?: string;
  readonly name?: string;
  readonly arguments: string;
}

/** The last part of every answer that succeeded, and of no other. */
export interface FinishPart {
  readonly type: 'finish';
  readonly reason: FinishReason;
  /** The provider's own word for it; absent where it sends none. */
  readonly rawReason?: string;
  readonly usage?: Usage;
}

export type ContentPart = TextPart | ToolCallPart;
export type StreamPart = ContentPart | FinishPart;

export interface Provider {
  readonly name: string;
  /**
   * Asks the model once. Parts come as the upstream sends them, text that arrived together as one
   * part; the consumer's pace is the upstream's pace.
   *
   * Ends after exactly one `finish` part, or throws a `ProviderError`; when `signal` aborts it
   * throws and the upstream socket is closed.
   */
  stream(request: ChatRequest, signal: AbortSignal): AsyncGenerator<StreamPart, void, undefined>;
  /** Closes kept-alive connections. Calls in flight are not waited for. */
  close(): Promise<void>;
}
