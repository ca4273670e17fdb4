/** Makers of upstream bytes for each dialect. */

const ENVELOPE = { id: 'chatcmpl-7', object: 'chat.completion.chunk', created: 1_764_000_000, model: 'm' };

/** An SSE event with JSON or text as its data. */
export const event = (data: unknown, name?: string): string =>
  `${name ? `event: ${name}\n` : ''}data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`;

/** Chat Completions. */
export const openai = {
  chunk: (delta: object, finish: unknown = null, extra: object = {}) =>
    event({ ...ENVELOPE, choices: [{ index: 0, delta, finish_reason: finish }], ...extra }),
  text: (content: string) => openai.chunk({ content }),
  calls: (...calls: object[]) => openai.chunk({ tool_calls: calls }),
  finish: (reason: unknown = 'stop') => openai.chunk({}, reason),
  usage: (input = 11, output = 7) =>
    event({
      ...ENVELOPE,
      choices: [],
      usage: { prompt_tokens: input, completion_tokens: output, total_tokens: input + output },
    }),
  done: 'data: [DONE]\n\n',
};

/** Anthropic's Messages. */
export const anthropic = {
  event: (data: { type: string; [field: string]: unknown }) => event(data, data.type),
  start: (usage: object = { input_tokens: 15, output_tokens: 1 }) =>
    anthropic.event({ type: 'message_start', message: { id: 'msg', role: 'assistant', content: [], usage } }),
  text: (text: string, index = 0) =>
    anthropic.event({ type: 'content_block_start', index, content_block: { type: 'text', text: '' } }) +
    anthropic.event({ type: 'content_block_delta', index, delta: { type: 'text_delta', text } }) +
    anthropic.event({ type: 'content_block_stop', index }),
  tool: (id: string, name: string, pieces: readonly string[], index = 0) =>
    anthropic.event({ type: 'content_block_start', index, content_block: { type: 'tool_use', id, name, input: {} } }) +
    pieces
      .map((partial_json) =>
        anthropic.event({ type: 'content_block_delta', index, delta: { type: 'input_json_delta', partial_json } }),
      )
      .join('') +
    anthropic.event({ type: 'content_block_stop', index }),
  finish: (reason = 'end_turn', usage: object = { output_tokens: 6 }) =>
    anthropic.event({ type: 'message_delta', delta: { stop_reason: reason, stop_sequence: null }, usage }),
  done: event({ type: 'message_stop' }, 'message_stop'),
};

/** Gemini's `streamGenerateContent`. */
export const gemini = {
  chunk: (parts: readonly object[], finishReason?: string, extra: object = {}) =>
    `data: ${JSON.stringify({
      candidates: [{ content: { parts, role: 'model' }, ...(finishReason && { finishReason }), index: 0 }],
      usageMetadata: { promptTokenCount: 5, candidatesTokenCount: 3, totalTokenCount: 8 },
      ...extra,
    })}\r\n\r\n`,
};

/** Ollama's `/api/chat`. */
export const ollama = {
  line: (fields: object) => `${JSON.stringify({ model: 'm', done: false, ...fields })}\n`,
  text: (content: string) => ollama.line({ message: { role: 'assistant', content } }),
  done: (reason = 'stop') =>
    ollama.line({
      message: { role: 'assistant', content: '' },
      done: true,
      done_reason: reason,
      prompt_eval_count: 4,
      eval_count: 2,
    }),
};
