/** What every provider takes, and what every provider gives. Imports nothing. */

export interface TextContent {
  readonly type: 'text';
  readonly text: string;
}

/** An image by reference, passed on untouched: an `https:` URL, or a `data:` URL in base64. */
export interface ImageContent {
  readonly type: 'image';
  readonly url: string;
  /** How closely to look, in OpenAI's words. */
  readonly detail?: string;
}

/** A call that the model made in an earlier turn. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** JSON text; empty for none. */
  readonly arguments: string;
}

export type ChatMessage =
  | { readonly role: 'system'; readonly content: string }
  | { readonly role: 'user'; readonly content: string | readonly (TextContent | ImageContent)[] }
  | {
      readonly role: 'assistant';
      readonly content: string;
      /** What it thought before it called tools; some thinking models want it back. */
      readonly reasoning?: string;
      readonly toolCalls?: readonly ToolCall[];
    }
  /** What a tool gave, and the name of the tool, by which some providers know the call. */
  | { readonly role: 'tool'; readonly content: string; readonly toolCallId: string; readonly name: string };

/** A function that the model may ask its caller to run. */
export interface Tool {
  readonly name: string;
  readonly description?: string;
  /** JSON schema of its arguments. */
  readonly parameters?: Readonly<Record<string, unknown>>;
  /** Whether the arguments have to follow the schema; for providers that speak Chat Completions. */
  readonly strict?: boolean;
}

export type ToolChoice = 'auto' | 'none' | 'required' | { readonly name: string };

export interface ChatRequest {
  /** The provider's own name of the model, not Sluice's public one. */
  readonly model: string;
  /** Headers that carry a trace to where the question goes. */
  readonly traceHeaders?: Readonly<Record<string, string>> | undefined;
  readonly messages: readonly ChatMessage[];
  readonly temperature?: number;
  readonly topP?: number;
  /** The most tokens the answer may have. */
  readonly maxTokens?: number;
  /** Texts at which the answer ends. */
  readonly stop?: readonly string[];
  readonly tools?: readonly Tool[];
  readonly toolChoice?: ToolChoice;
  /** Further fields of Chat Completions, for providers that speak it; the others leave them out. */
  readonly options?: Readonly<Record<string, unknown>>;
}

/** Tokens, as the provider counted them; what it does not say is absent. */
export interface Usage {
  readonly inputTokens?: number;
  readonly outputTokens?: number;
  readonly totalTokens?: number;
  readonly reasoningTokens?: number;
  /** Those of the input that came from the provider's cache. */
  readonly cachedTokens?: number;
  /** Those of the input that the provider put there. */
  readonly cacheWriteTokens?: number;
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
  /** Who answered, as `provider/model`, where it took more than one; set above the providers. */
  readonly targets?: readonly string[];
}

export type ContentPart = TextPart | ToolCallPart;
export type StreamPart = ContentPart | FinishPart;

export interface Provider {
  readonly name: string;
  /** False where it cannot be asked to go on with an answer that another has begun. */
  readonly supportsContinuation?: boolean;
  /** Why it cannot be asked now, as a call would throw it: all its keys rest. */
  cooldown?(): Error | undefined;
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
