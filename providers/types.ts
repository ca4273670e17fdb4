/** The input and output types of all providers. This file has no imports. */

export interface TextContent {
  readonly type: 'text';
  readonly text: string;
  /** Anthropic's `cache_control`: the prompt up to here is cached. Other providers ignore it. */
  readonly cacheControl?: Readonly<Record<string, unknown>>;
}

/** An image by reference: an `https:` URL, or a base64 `data:` URL. The URL is sent to the provider unchanged. */
export interface ImageContent {
  readonly type: 'image';
  readonly url: string;
  /** Resolution at which the model processes the image, with OpenAI's values. */
  readonly detail?: string;
}

/** A document, such as a PDF, by reference: an `https:` URL, or a base64 `data:` URL. */
export interface FileContent {
  readonly type: 'file';
  readonly url: string;
  /** Media type, such as `application/pdf`. */
  readonly mimeType: string;
  readonly filename?: string;
}

export type UserContent = TextContent | ImageContent | FileContent;

/** A call that the model made in an earlier turn. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** JSON text; empty if the call has no arguments. */
  readonly arguments: string;
}

/**
 * State that a provider wants back with the tool calls of an answer, and nobody else can read: signatures of its thoughts, or
 * its encrypted reasoning. In the form that OpenRouter has established.
 */
export interface AnswerState {
  /** `reasoning_details`: the reasoning before the tool calls. */
  readonly details?: readonly ReasoningDetail[];
  /** `extra_content` of tool calls, by their index in the message. */
  readonly extraContent?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

/** One block of reasoning: `type`, `text`, `signature`, `data`, `id`, `format` and others, as the provider needs them. */
export interface ReasoningDetail {
  readonly type: string;
  /** Index of the tool call that follows the block; 0 if absent. */
  readonly before?: number;
  readonly [field: string]: unknown;
}

/** The state of an answer, with the name of the provider in the configuration. It is sent to no other one. */
export interface ProviderState extends AnswerState {
  readonly provider: string;
}

/** `name` is that of the participant, for APIs that have such names. */
export type ChatMessage =
  | {
      readonly role: 'system';
      readonly content: string;
      readonly name?: string;
      /** As in `TextContent`. */
      readonly cacheControl?: Readonly<Record<string, unknown>>;
    }
  | { readonly role: 'user'; readonly content: string | readonly UserContent[]; readonly name?: string }
  | {
      readonly role: 'assistant';
      readonly content: string;
      readonly name?: string;
      /** Reasoning before the tool calls. Some reasoning models require it in the next request. */
      readonly reasoning?: string;
      readonly toolCalls?: readonly ToolCall[];
      /** State of the answer with these tool calls. The LLM client removes it for other providers. */
      readonly state?: ProviderState;
    }
  /** Result of a tool call. Some providers match it to the call by the name of the tool. */
  | { readonly role: 'tool'; readonly content: string; readonly toolCallId: string; readonly name: string };

/** A function that the model may call. The client runs it. */
export interface Tool {
  readonly name: string;
  readonly description?: string;
  /** JSON schema of the arguments. */
  readonly parameters?: Readonly<Record<string, unknown>>;
  /** True if the arguments must follow the schema. Only OpenAI's APIs have it. */
  readonly strict?: boolean;
}

export type ToolChoice = 'auto' | 'none' | 'required' | { readonly name: string };

export interface ChatRequest {
  /** The provider's own name of the model, not the public name. */
  readonly model: string;
  /** Headers that pass the trace on to the provider. */
  readonly traceHeaders?: Readonly<Record<string, string>> | undefined;
  readonly messages: readonly ChatMessage[];
  readonly temperature?: number;
  readonly topP?: number;
  /** Maximum length of the answer in tokens. */
  readonly maxTokens?: number;
  /** Texts at which the answer ends. */
  readonly stop?: readonly string[];
  readonly tools?: readonly Tool[];
  readonly toolChoice?: ToolChoice;
  /**
   * Further options by their names in Chat Completions: `response_format`, `reasoning_effort`, `seed` and others.
   * `option-table.ts` says what each API does with them.
   */
  readonly options?: Readonly<Record<string, unknown>>;
  /** Names of options that go to the provider unchanged, also if its API does not know them. Set by the operator. */
  readonly forward?: readonly string[];
}

/** Changes of the operator to the options of requests, by their names in Chat Completions. */
export interface RequestSettings {
  /** Options of requests that do not set them. */
  readonly defaults?: Readonly<Record<string, unknown>> | undefined;
  /** Options that are removed. */
  readonly drop?: readonly string[] | undefined;
  /** Options that go to the provider unchanged, also if its API does not know them. */
  readonly forward?: readonly string[] | undefined;
}

/**
 * Token counts as sent by the provider. A count that the provider does not send is absent. Cached tokens and those
 * written to the cache are part of the input; reasoning is part of the output.
 */
export interface Usage {
  readonly inputTokens?: number;
  readonly outputTokens?: number;
  readonly totalTokens?: number;
  readonly reasoningTokens?: number;
  /** Input tokens that the provider read from its cache. */
  readonly cachedTokens?: number;
  /** Input tokens that the provider wrote to its cache. */
  readonly cacheWriteTokens?: number;
  /** Part of `cacheWriteTokens` that the provider keeps for an hour, at a higher price. */
  readonly longCacheWriteTokens?: number;
  /** Cost in USD. Set by the LLM client if the price of the model is known. */
  readonly cost?: number;
}

export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter' | 'other';

export interface TextPart {
  readonly type: 'text' | 'reasoning';
  readonly text: string;
  /** Marks text in which the model refuses, if the provider sends it apart from other text. */
  readonly isRefusal?: true;
}

/**
 * A fragment of a tool call. `id` and `name` are sent once per `index`; concatenate the `arguments` by `index`.
 */
export interface ToolCallPart {
  readonly type: 'tool_call';
  readonly index: number;
  readonly id?: string;
  readonly name?: string;
  readonly arguments: string;
}

/** Estimated tokens of a call that broke off. Its cost is undefined if its price is unknown. */
export interface UncountedCall {
  readonly input: number;
  readonly output: number;
  readonly cost: number | undefined;
}

/** The last part of every complete answer. A failed answer has no finish part. */
export interface FinishPart {
  readonly type: 'finish';
  readonly reason: FinishReason;
  /** Finish reason as sent by the provider; absent if the provider sends none. */
  readonly rawReason?: string;
  readonly usage?: Usage;
  /** Present only with tool calls. The LLM client adds the name of the provider. */
  readonly state?: AnswerState | ProviderState;
  /** The targets that answered, as `provider/model`, if there was more than one. Set by the LLM client. */
  readonly targets?: readonly string[];
  /** Tokens and cost in `usage` of calls that broke off: estimates. Set by the LLM client. */
  readonly uncounted?: {
    readonly input: number;
    readonly output: number;
    readonly cost?: number;
    /** Each of these calls, in order. */
    readonly calls?: readonly UncountedCall[];
  };
}

/**
 * Says that the provider has given its finish reason: the finish part follows within a second, and no deadline
 * applies any more. Not every answer has one.
 */
export interface FinishingPart {
  readonly type: 'finishing';
}

/**
 * Says that the model is thinking and may be silent for long. Until the next content, only the deadline for thinking
 * applies. Pings of a provider are no such sign.
 */
export interface ThinkingPart {
  readonly type: 'thinking';
}

export type ContentPart = TextPart | ToolCallPart;
export type AnswerPart = ContentPart | FinishPart;
/** A part as a provider yields it. */
export type StreamPart = AnswerPart | FinishingPart | ThinkingPart;

export interface Provider {
  readonly name: string;
  /** False if the provider cannot continue an answer that another provider has begun. */
  readonly supportsContinuation?: boolean;
  /**
   * Returns the error that a call of this model would throw now because all API keys are in cooldown, else
   * undefined.
   */
  cooldown?(model: string): Error | undefined;
  /**
   * Replaces the API keys. A key that stays keeps its cooldowns; running calls keep the key that they have. The list may
   * be empty. Absent for a provider that sends no keys.
   */
  setApiKeys?(apiKeys: readonly string[]): void;
  /** Changes of the operator to the options of requests to this provider. */
  readonly settings?: RequestSettings | undefined;
  /**
   * Returns the Chat Completions name of something in the request that the API cannot express for this model and that
   * would change the answer; undefined if the request can be sent.
   */
  unsupported?(request: ChatRequest): string | undefined;
  /**
   * Calls the model once and yields the parts of its answer. Text that arrives together is one part. Reads
   * from the upstream only as fast as parts are consumed.
   *
   * Ends after exactly one `finish` part. If `signal` aborts, throws and closes the upstream
   * socket.
   * @throws ProviderError if the call fails or the answer is incomplete
   */
  stream(request: ChatRequest, signal: AbortSignal): AsyncGenerator<StreamPart, void, undefined>;
  /** Closes all connections. Does not wait for running calls. */
  close(): Promise<void>;
}
