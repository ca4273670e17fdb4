import Fastify, { type FastifyInstance, type InjectOptions } from 'fastify';
import type { Test } from 'tap';

/** Reads the OpenAPI document, and compares real answers with it. */

type Schema = Record<string, unknown>;

export interface Response {
  readonly description: string;
  readonly headers?: Record<string, object>;
  readonly content?: Record<string, { readonly schema: Schema; readonly itemSchema?: Schema }>;
}

export interface Operation {
  readonly operationId?: string;
  readonly summary?: string;
  readonly tags?: string[];
  readonly security?: object[];
  readonly parameters?: { readonly name: string; readonly in: string }[];
  readonly requestBody?: { readonly content: Record<string, { readonly schema: Schema }> };
  readonly responses: Record<string, Response>;
}

export interface Document {
  readonly openapi: string;
  readonly servers: { readonly url: string }[];
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { readonly schemas: Record<string, Schema> };
}

export async function readDocument(app: FastifyInstance, url = '/openapi.json'): Promise<Document> {
  return (await app.inject(url)).json() as Document;
}

/** Returns the operations by `method path`. */
export function operationsOf({ paths }: Document): Map<string, Operation> {
  return new Map(
    Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => [`${method} ${path}`, operation] as const),
    ),
  );
}

/** Returns what the document does not say about an operation. */
export function gapsOf(document: Document): string[] {
  return [...operationsOf(document)].flatMap(([name, { summary, tags, security, responses }]) => {
    const described = (digit: string) =>
      Object.entries(responses).filter(
        ([status, { content }]) => status.startsWith(digit) && (status === '204' || content !== undefined),
      );
    return [
      ...(summary ? [] : [`${name} has no summary`]),
      ...(tags?.length ? [] : [`${name} has no tags`]),
      ...(security ? [] : [`${name} has no security`]),
      ...(described('2').length > 0 ? [] : [`${name} has no schema of a 2xx answer`]),
      ...(described('4').length > 0 ? [] : [`${name} has no schema of a 4xx answer`]),
    ];
  });
}

/**
 * Compiles schemas of the document with Fastify's own validator.
 * @param isClosed finds fields that a schema does not name, although clients must ignore them
 */
export async function createChecker(t: Test, { components }: Document, isClosed = true) {
  const checker = Fastify({
    ajv: { customOptions: { strict: false, coerceTypes: false, removeAdditional: false, useDefaults: false } },
  });
  t.teardown(() => checker.close());
  for (const [name, schema] of Object.entries(components.schemas))
    checker.addSchema({ ...local(schema, isClosed), $id: name });
  checker.post('/', { schema: { body: {} } }, async () => {});
  await checker.ready();

  /** Returns what is wrong with a value, or undefined. */
  return (schema: Schema, value: unknown): string | undefined => {
    const validate = checker.validatorCompiler?.({
      schema: local(schema, isClosed),
      method: '',
      url: '',
      httpPart: 'body',
    });
    return validate?.(value) === true ? undefined : JSON.stringify([validate?.errors?.at(-1), value]);
  };
}

/** Copies a schema so that its references lead to shared schemas. */
function local(schema: Schema, isClosed: boolean): Schema {
  const copy = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(copy);
    if (typeof value !== 'object' || value === null) return value;
    const copied: Schema = {};
    for (const [key, inner] of Object.entries(value)) copied[key] = copy(inner);
    if (typeof copied.$ref === 'string') copied.$ref = `${copied.$ref.split('/').at(-1)}#`;
    if (isClosed && copied.type === 'object' && copied.properties) copied.additionalProperties ??= false;
    return copied;
  };
  return copy(schema) as Schema;
}

export type Checker = Awaited<ReturnType<typeof createChecker>>;

/** Sends a request and returns the status and, if the answer differs from the document, the difference. */
export async function callAndCheck(
  app: FastifyInstance,
  check: Checker,
  operation: Operation,
  request: InjectOptions,
): Promise<{ status: number; body: string; headers: Record<string, unknown>; problem: string | undefined }> {
  const { statusCode: status, body, headers } = await app.inject(request);
  const response = operation.responses[status];
  const type = String(headers['content-type'] ?? '').split(';')[0] as string;
  return { status, body, headers, problem: findProblem() };

  function findProblem(): string | undefined {
    if (response === undefined) return `status ${status} is not documented: ${body}`;
    if (response.content === undefined) return body === '' ? undefined : `status ${status} has a body`;
    const media = response.content[type];
    if (media === undefined) return `status ${status} has the type ${type}`;
    if (type === 'application/json') return check(media.schema, JSON.parse(body));
    if (type !== 'text/event-stream') return undefined;
    const { properties } = media.itemSchema as { properties: { data: Schema & { anyOf?: Schema[] } } };
    const { anyOf, ...only } = properties.data;
    const [json, sentinel] = anyOf ?? [only];
    for (const [, data] of body.matchAll(/^data: (.*)$/gm)) {
      if (sentinel && (sentinel.const ?? (sentinel.enum as string[])[0]) === data) continue;
      const problem = check(json?.contentSchema as Schema, JSON.parse(data as string));
      if (problem) return problem;
    }
    return undefined;
  }
}
