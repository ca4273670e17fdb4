import type { Question } from '../../plugins/streams/api.ts';
import type { ResponseBody } from './schema.ts';

/** Converts the tools of a request and the choice between them. */

type Invalid = (message: string, param?: string, code?: string) => Error;

/**
 * Returns the tools and the choice. `allowed_tools` leaves out the other tools, because few APIs have it.
 * @throws the error that `invalid` returns, for a tool that is not a function, and for a choice without its tool
 */
export function toolsOf(body: ResponseBody, invalid: Invalid): Pick<Question, 'tools' | 'toolChoice'> {
  const { tool_choice: choice } = body;
  const tools = (body.tools ?? []).map(({ type, name, description, parameters, strict }, i) => {
    const at = `tools[${i}]`;
    if (type !== 'function') throw builtIn(`${at}.type`, invalid);
    if (name === undefined) throw invalid(`${at}.name is missing.`, `${at}.name`);
    return { name, ...(description && { description }), ...(parameters && { parameters }), ...(strict && { strict }) };
  });
  const has = (wanted: string | undefined) => tools.some(({ name }) => name === wanted);
  if (choice == null || choice === 'auto' || choice === 'none') {
    return tools.length === 0 ? {} : { tools, ...(choice != null && { toolChoice: choice }) };
  }
  if (choice === 'required') {
    if (tools.length === 0) throw invalid('tool_choice needs tools.', 'tool_choice');
    return { tools, toolChoice: choice };
  }
  if (choice.type === 'function') {
    const { name } = choice;
    if (name === undefined || !has(name))
      throw invalid('tool_choice.name must name one of the tools.', 'tool_choice.name');
    return { tools, toolChoice: { name } };
  }
  if (choice.type !== 'allowed_tools') throw builtIn('tool_choice.type', invalid);
  const names = (choice.tools ?? []).map(({ type, name }, i) => {
    const at = `tool_choice.tools[${i}]`;
    if (type !== 'function') throw builtIn(`${at}.type`, invalid);
    if (!has(name)) throw invalid(`${at}.name must name one of the tools.`, `${at}.name`);
    return name;
  });
  if (names.length === 0) throw invalid('tool_choice.tools is missing.', 'tool_choice.tools');
  return { tools: tools.filter(({ name }) => names.includes(name)), toolChoice: choice.mode ?? 'auto' };
}

function builtIn(param: string, invalid: Invalid): Error {
  return invalid(`${param} must be function; built-in tools are not supported.`, param, 'unsupported_parameter');
}
