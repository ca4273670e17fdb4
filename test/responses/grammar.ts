import { isDeepStrictEqual } from 'node:util';

/**
 * The grammar of the events of a response, written from OpenAI's specification: what each event has, what must come before
 * it, and what the events before it must add up to.
 */

// biome-ignore lint/suspicious/noExplicitAny: events of every shape
export type Event = any;

/** Members that each event has, besides `type` and `sequence_number`. */
const MEMBERS: Readonly<Record<string, readonly string[]>> = {
  'response.created': ['response'],
  'response.queued': ['response'],
  'response.in_progress': ['response'],
  'response.completed': ['response'],
  'response.incomplete': ['response'],
  'response.failed': ['response'],
  'response.output_item.added': ['output_index', 'item'],
  'response.output_item.done': ['output_index', 'item'],
  'response.content_part.added': ['item_id', 'output_index', 'content_index', 'part'],
  'response.content_part.done': ['item_id', 'output_index', 'content_index', 'part'],
  'response.output_text.delta': ['item_id', 'output_index', 'content_index', 'delta', 'logprobs'],
  'response.output_text.done': ['item_id', 'output_index', 'content_index', 'text', 'logprobs'],
  'response.refusal.delta': ['item_id', 'output_index', 'content_index', 'delta'],
  'response.refusal.done': ['item_id', 'output_index', 'content_index', 'refusal'],
  'response.reasoning_summary_part.added': ['item_id', 'output_index', 'summary_index', 'part'],
  'response.reasoning_summary_part.done': ['item_id', 'output_index', 'summary_index', 'part'],
  'response.reasoning_summary_text.delta': ['item_id', 'output_index', 'summary_index', 'delta'],
  'response.reasoning_summary_text.done': ['item_id', 'output_index', 'summary_index', 'text'],
  'response.function_call_arguments.delta': ['item_id', 'output_index', 'delta'],
  'response.function_call_arguments.done': ['item_id', 'output_index', 'name', 'arguments'],
};

/** Required fields of a response, and those that Sluice also has. */
const RESPONSE_FIELDS = [
  'id',
  'object',
  'created_at',
  'status',
  'error',
  'incomplete_details',
  'model',
  'output',
  'usage',
];

const ITEM_FIELDS: Readonly<Record<string, readonly string[]>> = {
  message: ['id', 'type', 'role', 'content', 'status'],
  reasoning: ['id', 'type', 'summary'],
  function_call: ['id', 'type', 'call_id', 'name', 'arguments', 'status'],
};

const LAST = ['response.completed', 'response.incomplete', 'response.failed'];
const PART_OF: Readonly<Record<string, string>> = {
  'response.output_text': 'output_text',
  'response.refusal': 'refusal',
};

interface Part {
  readonly type: string;
  text: string;
  isTextDone: boolean;
  isDone: boolean;
}

interface Item {
  readonly added: Event;
  readonly parts: Part[];
  arguments: string;
  areArgumentsDone: boolean;
  done: Event | undefined;
}

/** Follows the events of one response. @throws for the first event that the specification does not allow */
export class Grammar {
  readonly items: Item[] = [];
  #count = 0;
  #stage: 'new' | 'created' | 'queued' | 'in_progress' | 'over' = 'new';
  last: Event;

  accept(event: Event): void {
    const { type, sequence_number: number } = event;
    const members = MEMBERS[type];
    const check = (holds: unknown, what: string) => {
      if (!holds) throw new Error(`${what}: event ${this.#count}, ${JSON.stringify(event)}`);
    };
    check(members, 'an event that the specification does not have');
    check(number === this.#count++, 'the sequence number counts from 0');
    const expected = ['type', 'sequence_number', ...(members ?? [])].sort();
    check(isDeepStrictEqual(Object.keys(event).sort(), expected), `members ${expected}`);
    check(this.#stage !== 'over', 'nothing follows the last event');
    if (event.response) this.#acceptResponse(event, check);
    else {
      check(this.#stage === 'in_progress', 'output follows response.in_progress');
      this.#acceptOutput(event, check);
    }
    this.last = event;
  }

  /** Call after the last event. */
  end(): void {
    if (this.#stage !== 'over') throw new Error(`no last event after ${JSON.stringify(this.last)}`);
  }

  #acceptResponse({ type, response }: Event, check: (holds: unknown, what: string) => void): void {
    for (const field of RESPONSE_FIELDS) check(field in response, `a response has ${field}`);
    check(response.object === 'response', 'object');
    const stage = type.slice('response.'.length);
    if (stage === 'created') {
      check(this.#stage === 'new', 'response.created is the first event');
      check(['in_progress', 'queued'].includes(response.status), 'the first status');
    } else if (stage === 'queued')
      check(this.#stage === 'created' && response.status === 'queued', 'queued after created');
    else if (stage === 'in_progress') {
      check(['created', 'queued'].includes(this.#stage) && response.status === 'in_progress', 'in_progress');
    } else {
      check(LAST.includes(type) && this.#stage === 'in_progress', 'the last event');
      this.#acceptEnd(stage, response, check);
      this.#stage = 'over';
      return;
    }
    check(response.output.length === 0, 'no output yet');
    this.#stage = stage;
  }

  #acceptEnd(stage: string, response: Event, check: (holds: unknown, what: string) => void): void {
    const statuses = stage === 'incomplete' ? ['incomplete', 'cancelled'] : [stage];
    check(statuses.includes(response.status), 'the last status');
    check((response.error !== null) === (stage === 'failed'), 'an error if it has failed');
    check((response.incomplete_details !== null) === (response.status === 'incomplete'), 'details if it is incomplete');
    check(response.output.length === this.items.length, 'all items are in the output');
    for (const [i, { added, parts, arguments: args, done }] of this.items.entries()) {
      const item = response.output[i];
      check(item.id === added.id && item.type === added.type, 'the items are in order');
      if (done) check(isDeepStrictEqual(item, done), 'an item that is done stays as it is');
      else {
        check(stage !== 'completed', 'all items of a completed response are done');
        check(item.status === 'incomplete', 'an item that is not done is incomplete');
      }
      if (item.type === 'function_call') check(item.arguments === args, 'the arguments');
      const texts = (item.content ?? item.summary ?? []).map((part: Event) => part.text ?? part.refusal);
      check(
        isDeepStrictEqual(
          texts,
          parts.map(({ text }) => text),
        ),
        'the texts',
      );
    }
  }

  #acceptOutput(event: Event, check: (holds: unknown, what: string) => void): void {
    const { type, output_index: index, item: given } = event;
    if (type === 'response.output_item.added') {
      check(index === this.items.length, 'indexes count from 0');
      for (const field of ITEM_FIELDS[given.type] ?? ['unknown type']) check(field in given, `an item has ${field}`);
      check(!this.items.some(({ added }) => added.id === given.id), 'a new id');
      check((given.content ?? given.summary ?? []).length === 0 && (given.arguments ?? '') === '', 'an empty item');
      this.items.push({ added: given, parts: [], arguments: '', areArgumentsDone: false, done: undefined });
      return;
    }
    const item = this.items[index];
    if (item === undefined) throw new Error(`no item ${index}`);
    check(item.done === undefined, 'nothing follows the end of an item');
    if (type === 'response.output_item.done') {
      check(given.id === item.added.id && given.type === item.added.type, 'the same item');
      check(['completed', 'incomplete'].includes(given.status), 'its last status');
      check(
        item.parts.every(({ isDone }) => isDone),
        'all parts are done',
      );
      check(given.type !== 'function_call' || item.areArgumentsDone, 'the arguments are done');
      if (given.type === 'message') check(given.content.length > 0, 'a message has content');
      item.done = structuredClone(given);
      return;
    }
    check(event.item_id === item.added.id, 'the id of the item');
    if (type.startsWith('response.function_call_arguments.')) this.#acceptArguments(event, item, check);
    else this.#acceptPart(event, item, check);
  }

  #acceptArguments(event: Event, item: Item, check: (holds: unknown, what: string) => void): void {
    check(item.added.type === 'function_call' && !item.areArgumentsDone, 'arguments of a call');
    if (event.type.endsWith('.delta')) {
      check(event.delta !== '', 'a delta has content');
      item.arguments += event.delta;
      return;
    }
    check(event.arguments === item.arguments && event.name === item.added.name, 'the whole arguments');
    item.areArgumentsDone = true;
  }

  #acceptPart(event: Event, item: Item, check: (holds: unknown, what: string) => void): void {
    const { type } = event;
    const isReasoning = type.startsWith('response.reasoning_summary');
    check(item.added.type === (isReasoning ? 'reasoning' : 'message'), 'the type of the item');
    const index = isReasoning ? event.summary_index : event.content_index;
    if (type.endsWith('_part.added')) {
      check(index === item.parts.length && item.parts.every(({ isDone }) => isDone), 'one part after another');
      check((event.part.text ?? event.part.refusal) === '', 'an empty part');
      if (isReasoning) check(event.part.type === 'summary_text', 'a summary');
      item.parts.push({ type: event.part.type, text: '', isTextDone: false, isDone: false });
      return;
    }
    const part = item.parts[index];
    if (part === undefined) throw new Error(`no part ${index}`);
    if (type.endsWith('_part.done')) {
      check(part.isTextDone && !part.isDone && event.part.type === part.type, 'the text is done before its part');
      check((event.part.text ?? event.part.refusal) === part.text, 'the whole part');
      part.isDone = true;
      return;
    }
    const ofType = PART_OF[type.slice(0, type.lastIndexOf('.'))] ?? 'summary_text';
    check(part.type === ofType && !part.isTextDone, 'text of a part that is open');
    if (type.endsWith('.delta')) {
      check(event.delta !== '', 'a delta has content');
      part.text += event.delta;
      return;
    }
    check((event.text ?? event.refusal) === part.text, 'the whole text');
    part.isTextDone = true;
  }
}

/** Checks all events of one response. */
export function checkGrammar(events: readonly Event[]): Grammar {
  const grammar = new Grammar();
  for (const event of events) grammar.accept(event);
  grammar.end();
  return grammar;
}
