import type { AnswerPart, ChatRequest, FinishPart, UncountedCall, Usage } from '../../providers/types.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { ModelPrice } from '../config/price-file.ts';
import { costOf, sumCosts } from '../prices/cost.ts';
import { commonPrice, type PriceOf, priceOfCall } from './call-price.ts';
import type { Prompt } from './request-settings.ts';

/** Characters per token in English. Other scripts have fewer. */
export const CHARS_PER_TOKEN = 4;

const estimateTokens = (characters: number): number => Math.ceil(characters / CHARS_PER_TOKEN);

/** Tokens of an attempt that broke off: no provider has counted them. */
interface BrokenAttempt {
  /** Text, and reasoning before it. */
  readonly outputTokens: number;
  /** Text that later attempts have in their prompt. */
  readonly textTokens: number;
  readonly price: ModelPrice | undefined;
}

/** Collects what the targets of one question have said, and makes the prompt with which another one continues it. */
export class AnswerProgress {
  /** Prompt of the next call. Undefined once no further call can follow, so that it is not held in memory. */
  prompt: Prompt | undefined;
  isContinuation: boolean;
  /** Price of the current call; undefined if it is unknown. */
  price: ModelPrice | undefined;
  readonly #route: ModelRoute;
  readonly #priceOf: PriceOf;
  /** The prompt without the continuation; undefined if the answer will not be continued. */
  #question: Prompt | undefined;
  #text: string[];
  #attemptTextLength = 0;
  #attemptLength = 0;
  readonly #broken: BrokenAttempt[] = [];
  readonly #answeredBy: string[] = [];

  constructor(route: ModelRoute, prompt: Prompt, partialAnswer: string, priceOf: PriceOf = () => undefined) {
    this.#route = route;
    this.#priceOf = priceOf;
    this.isContinuation = partialAnswer !== '';
    this.prompt = this.isContinuation ? appendContinuation(prompt, partialAnswer, route.continuePrompt) : prompt;
    this.#question = route.onMidStreamFailure === 'continue' ? prompt : undefined;
    this.#text = [partialAnswer];
    const tokens = estimateTokens(partialAnswer.length);
    // Nobody knows which target has produced the partial answer.
    const price = commonPrice(priceOf, route);
    if (this.isContinuation) this.#broken.push({ outputTokens: tokens, textTokens: tokens, price });
  }

  /** True if another target may continue the answer: the route allows it, and the answer is text. */
  get canContinue(): boolean {
    return this.#question !== undefined;
  }

  /**
   * Call before each call. Returns the request with its token limit lowered by the text that the answer has already.
   */
  startCall(target: Target, request: ChatRequest): ChatRequest {
    this.price = priceOfCall(this.#priceOf, this.#route, target, request);
    if (request.maxTokens === undefined || this.#broken.length === 0) return request;
    const said = this.#broken.reduce((sum, { textTokens }) => sum + textTokens, 0);
    return { ...request, maxTokens: Math.max(1, request.maxTokens - said) };
  }

  /** Call before the first part of each call. */
  begin({ provider, model }: Target, part: AnswerPart): void {
    if (part.type !== 'finish') this.#answeredBy.push(`${provider}/${model}`);
    if (!this.canContinue) this.prompt = undefined;
  }

  /** Call for each part but the last. */
  add(part: AnswerPart): void {
    if (part.type === 'finish') return;
    if (part.type === 'tool_call') {
      this.#question = undefined;
      this.prompt = undefined;
      this.#text = [];
      return;
    }
    this.#attemptLength += part.text.length;
    if (part.type !== 'text') return;
    this.#attemptTextLength += part.text.length;
    if (this.#question !== undefined) this.#text.push(part.text);
  }

  /** Call if a call has failed after its first part. The next call continues the text. Returns its estimated output tokens. */
  breakOff(): number {
    const outputTokens = estimateTokens(this.#attemptLength);
    this.#broken.push({
      outputTokens,
      textTokens: estimateTokens(this.#attemptTextLength),
      price: this.price,
    });
    this.#attemptLength = 0;
    this.#attemptTextLength = 0;
    if (this.#question === undefined) return outputTokens;
    const text = this.#text.join('');
    this.#text = [text];
    this.isContinuation = true;
    // If the model produced only reasoning, there is no text to continue: start over.
    this.prompt = text ? appendContinuation(this.#question, text, this.#route.continuePrompt) : this.#question;
    return outputTokens;
  }

  /** Returns the last part of the current call with the cost of this call, if it is known. */
  withCost(part: FinishPart): FinishPart {
    const cost = costOf(part.usage, this.price);
    return cost === undefined ? part : { ...part, usage: { ...part.usage, cost } };
  }

  /**
   * Returns the last part for the reader: with all targets that answered, and the usage and cost of all of them.
   * @param part result of `withCost`
   */
  finish(part: FinishPart, { provider }: Target): FinishPart {
    return {
      ...part,
      ...(part.state && { state: { ...part.state, provider } }),
      ...(part.usage && this.#broken.length > 0 && this.#addUsage(part.usage)),
      ...(this.#answeredBy.length > 1 && { targets: this.#answeredBy }),
    };
  }

  /**
   * Adds the attempts that broke off, each at its own price. Their prompts had all that the last one has, but the text
   * said after them.
   */
  #addUsage(last: Usage): Pick<FinishPart, 'usage' | 'uncounted'> {
    let output = 0;
    let input = 0;
    let textAfter = 0;
    const { cost: costOfLast, ...counts } = last;
    const calls: UncountedCall[] = [];
    for (const { outputTokens, textTokens, price } of [...this.#broken].reverse()) {
      textAfter += textTokens;
      const inputTokens = Math.max(0, (last.inputTokens ?? 0) - textAfter);
      output += outputTokens;
      input += inputTokens;
      calls.unshift({ input: inputTokens, output: outputTokens, cost: costOf({ inputTokens, outputTokens }, price) });
    }
    const costOfBroken = sumCosts(calls.map(({ cost }) => cost));
    const cost = sumCosts([costOfLast, costOfBroken]);
    const usage = {
      ...counts,
      ...(last.inputTokens !== undefined && { inputTokens: last.inputTokens + input }),
      ...(last.outputTokens !== undefined && { outputTokens: last.outputTokens + output }),
      ...(last.totalTokens !== undefined && { totalTokens: last.totalTokens + input + output }),
      ...(cost !== undefined && { cost }),
    };
    const uncounted = { input, output, calls, ...(costOfBroken !== undefined && { cost: costOfBroken }) };
    return { usage, uncounted };
  }
}

/** Returns the prompt with the partial answer and the instruction to continue it. */
export function appendContinuation<T extends Pick<ChatRequest, 'messages'>>(
  prompt: T,
  partialAnswer: string,
  instruction: string,
): T {
  return {
    ...prompt,
    messages: [
      ...prompt.messages,
      { role: 'assistant', content: partialAnswer },
      { role: 'user', content: instruction },
    ],
  };
}
