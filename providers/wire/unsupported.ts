import type { ChatRequest } from '../types.ts';
import { type Api, OPTION_TABLE } from './option-table.ts';

/**
 * Returns the name of the first option or content that the API cannot express and that would change the answer, as the
 * table of options says; undefined if the request can be sent. Rules for single models are in each API's own file.
 */
export function unsupportedOption(request: ChatRequest, api: Api): string | undefined {
  for (const [row, name] of usedRows(request)) {
    if (request.forward?.includes(name)) continue;
    if (OPTION_TABLE[row]?.[api] === 'unfit') return name;
  }
  for (const name of Object.keys(request.options ?? {})) {
    if (request.forward?.includes(name) || isKnownOption(name)) continue;
    if (OPTION_TABLE['unknown options']?.[api] === 'unfit') return name;
  }
  return undefined;
}

/** Returns true if the option has a row, or rows for its values. */
export function isKnownOption(name: string): boolean {
  return KNOWN.has(name);
}

const KNOWN: ReadonlySet<string> = new Set(Object.keys(OPTION_TABLE).map((row) => row.replace(/: .*$/, '')));

/** Yields the rows of the table that the request uses, each with the name that the client knows. */
function* usedRows({ stop, tools, toolChoice, messages, options = {} }: ChatRequest): Generator<[string, string]> {
  if (stop !== undefined) yield ['stop', 'stop'];
  if (tools !== undefined) yield ['tools', 'tools'];
  if (toolChoice !== undefined && toolChoice !== 'auto') {
    yield [`tool_choice: ${typeof toolChoice === 'string' ? toolChoice : 'function'}`, 'tool_choice'];
  }
  const { response_format: format, parallel_tool_calls: parallel, ...others } = options;
  if (parallel === false && tools !== undefined) yield ['parallel_tool_calls: false', 'parallel_tool_calls'];
  const formatType = (format as { type?: unknown } | null | undefined)?.type;
  if (formatType !== undefined && formatType !== 'text') yield [`response_format: ${formatType}`, 'response_format'];
  for (const name of Object.keys(others)) if (name in OPTION_TABLE) yield [name, name];
  for (const { role, content } of messages) {
    if (role !== 'user' || typeof content === 'string') continue;
    for (const block of content) {
      if (block.type !== 'text')
        yield [`${block.type} by ${block.url.startsWith('data:') ? 'data' : 'https'}: URL`, 'messages'];
    }
  }
}
