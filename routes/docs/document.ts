import { ERRORS, EVENTS } from './events.ts';
import { OPERATIONS, type Operation } from './operations.ts';

/** Completes what Fastify knows of its routes by what only this service knows. Pure. */

interface Responses {
  [status: string]: object;
}

interface Described {
  operationId?: string;
  tags?: string[];
  summary?: string;
  description?: string;
  parameters?: object[];
  security?: object[];
  responses?: Responses;
}

export interface Document {
  paths?: Record<string, Record<string, Described>>;
}

const json = (name: string) => ({ 'application/json': { schema: { $ref: `#/components/schemas/${name}` } } });

const WHAT: Readonly<Record<number, string>> = {
  400: 'The request is wrong: the message names the field',
  401: 'No key, token or ticket, or one that is not good (any more)',
  403: 'Not with this key, or not from this origin',
  404: 'Not there (any more), or not yours',
  406: 'This path answers with text/event-stream',
  408: 'The request took too long to come',
  409: 'The key stands for another question',
  413: 'Too large',
  414: 'The URL is too long',
  415: 'Another media type is needed',
  422: 'The provider could not take the question',
  429: 'Past a limit: see Retry-After',
  431: 'The head is too large',
  500: 'A fault of ours; its log line has the requestId',
  502: 'The provider failed',
  503: 'Not now: see Retry-After',
  504: 'The provider took too long',
};

const LAST_EVENT_ID = {
  name: 'Last-Event-ID',
  in: 'header',
  description: 'Where a connection was cut; browsers send it by themselves',
  schema: { type: 'string' },
};

export const COMPONENTS = {
  schemas: { ...EVENTS, ...ERRORS },
  securitySchemes: {
    key: { type: 'http', scheme: 'bearer', description: 'An API key, or a JWT' },
    ticket: { type: 'apiKey', in: 'query', name: 'ticket', description: 'For clients that cannot set headers' },
  },
} as const;

/** @throws for a route that nothing is said of */
export function complete<T extends Document>(document: T, basePath: string): T {
  for (const [path, methods] of Object.entries(document.paths ?? {})) {
    for (const [method, described] of Object.entries(methods)) {
      const name = `${method} ${path.slice(basePath.length)}`;
      const operation = OPERATIONS[name];
      if (operation === undefined) throw new Error(`routes/docs/operations.ts says nothing of ${name}`);
      describe(described, operation, path.startsWith(`${basePath}/v1/`));
      described.operationId = name.replace(/[^a-z]+/gi, '_').replace(/^_|_$/g, '');
    }
  }
  return document;
}

function describe(
  described: Described,
  { tag, summary, description, events, answers = {}, refuses }: Operation,
  isOpenAI: boolean,
) {
  described.tags = [tag];
  described.summary = summary;
  if (description) described.description = description;
  if (tag !== 'Operation') described.security = [{ key: [] }, { ticket: [] }, {}];
  if (events === 'StreamEvent') described.parameters = [...(described.parameters ?? []), LAST_EVENT_ID];
  const responses: Responses = {};
  const known = described.responses ?? {};
  // Fastify's own word where a route has no schema of its answer.
  const isDeclared = Object.values(known).some(
    (one) => (one as { description?: string }).description !== 'Default Response',
  );
  if (isDeclared || 'content' in (Object.values(known)[0] ?? {})) Object.assign(responses, known);
  else if (events === undefined && !('204' in answers)) responses[200] = { description: 'OK' };
  if (events) {
    const content = { 'text/event-stream': { schema: { $ref: `#/components/schemas/${events}` } } };
    responses[200] = { description: 'Server-Sent Events', content };
  }
  for (const [status, text] of Object.entries(answers)) responses[status] = { description: text };
  for (const status of refuses) {
    responses[status] = { description: WHAT[status] as string, content: json(isOpenAI ? 'OpenAIError' : 'Error') };
  }
  described.responses = responses;
}
