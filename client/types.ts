/** Types of the client. They follow the events of `GET /streams/:id`. */

export interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface ReadOptions {
  /**
   * Address of the service; `/` by default. A relative address belongs to the page. Outside of a page it must be
   * absolute.
   */
  readonly url?: string | URL;
  /**
   * Returns a ticket, or another token for `Authorization: Bearer`. It is called again when the service answers 401.
   * Without a ticket the header is not sent.
   */
  readonly ticket?: () => string | undefined | Promise<string | undefined>;
  /** Ends reading. The answer itself ends if nobody else reads it for the grace time of the service. */
  readonly signal?: AbortSignal;
  /** Sends requests, instead of the global `fetch`. */
  readonly fetch?: typeof fetch;
}

export interface AskOptions extends ReadOptions {
  /**
   * Idempotency key; a random one by default. The same key and question find the same answer, also after a reload.
   */
  readonly key?: string;
  readonly model?: string;
  readonly system?: string;
  readonly temperature?: number;
  readonly maxTokens?: number;
  readonly reasoningEffort?: string;
  /** Texts that end the answer. */
  readonly stop?: readonly string[];
}

/** The first event. Another one follows only if the question had to be asked again; the text is then empty. */
export interface StartEvent {
  readonly type: 'start';
  /** Id of the stream. */
  readonly stream: string;
  /** Public name of the model. */
  readonly model: string;
  readonly url: string;
  readonly resumable: boolean;
}

/** Text to append to the answer. */
export interface DeltaEvent {
  readonly type: 'delta';
  readonly content: string;
}

/** Text to append to the reasoning. */
export interface ReasoningEvent {
  readonly type: 'reasoning';
  readonly content: string;
}

/** A fragment of a tool call. Fragments with the same `index` belong together. */
export interface ToolCallEvent {
  readonly type: 'tool_call';
  readonly index: number;
  readonly id?: string;
  readonly name?: string;
  readonly arguments: string;
}

/** Reports whether a cut loses the rest of the answer. */
export interface StatusEvent {
  readonly type: 'status';
  readonly resumable: boolean;
}

export interface Usage {
  readonly inputTokens?: number;
  readonly outputTokens?: number;
  /** US dollars; absent if the price is not known. */
  readonly cost?: number;
  readonly [field: string]: unknown;
}

/** The last event of a complete answer, or of one that was stopped (`finishReason: 'stopped'`). */
export interface EndEvent {
  readonly type: 'end';
  /** The whole text. */
  readonly answer: string;
  readonly model?: string;
  readonly finishReason: string;
  /** Absent if this client has stopped the answer. */
  readonly usage?: Usage;
  readonly [field: string]: unknown;
}

/** The last event of a failed answer. The text before it stays valid. */
export interface ErrorEvent {
  readonly type: 'error';
  /** A code of the service, or `unreachable` or `aborted`. */
  readonly code: string;
  readonly message: string;
  /** True if the same question may succeed later. */
  readonly retryable: boolean;
  /** Seconds after which to ask again. */
  readonly retryAfter?: number;
  /** Status of the response, if there was no stream. */
  readonly status?: number;
  readonly [field: string]: unknown;
}

export type AnswerEvent =
  | StartEvent
  | DeltaEvent
  | ReasoningEvent
  | ToolCallEvent
  | StatusEvent
  | EndEvent
  | ErrorEvent;

/** With what `answer.answer` rejects and an iteration throws: an error with the fields of the `error` event. */
export type AnswerError = Error & Omit<ErrorEvent, 'message'>;

/** Events by name. `change` follows each of the others. */
export type AnswerEventMap = { readonly [Name in AnswerEvent['type']]: Extract<AnswerEvent, { type: Name }> } & {
  readonly change: null;
};

/** An answer that is arriving. Iterating over it gives all events from the first one; leaving the loop stops it. */
export interface Answer extends EventTarget, AsyncIterable<Exclude<AnswerEvent, ErrorEvent>> {
  /** The text until now. */
  readonly text: string;
  /** URL that reads this answer again with `read`, once the service knows it. */
  readonly url: string | undefined;
  /** The `end` event. Rejects with an `AnswerError`. */
  readonly answer: Promise<EndEvent>;
  /** Stops the answer at the service. The text stays, and `end` follows at once. No effect after the end. */
  stop(): void;
  addEventListener<Name extends keyof AnswerEventMap>(
    name: Name,
    listener: (event: CustomEvent<AnswerEventMap[Name]>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    name: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}
