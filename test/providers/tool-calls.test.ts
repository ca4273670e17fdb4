import t from 'tap';
import { createPartBuffer } from '../../providers/wire/parts.ts';
import { MAX_EVENT_CHARS } from '../../providers/wire/sse.ts';
import { createToolCalls } from '../../providers/wire/tool-calls.ts';
import {
  anthropic,
  type Dialect,
  DONE,
  events,
  gemini,
  lines,
  ollama,
  openai,
  type Played,
  startDialects,
} from './dialects.ts';

/** Tests how the tool calls of each API become parts. */

const ARGUMENTS = '{"city":"Oslo"}';
const toolCall = (index: number | undefined, id: string | undefined, name: string | undefined, args: unknown) => ({
  ...(index !== undefined && { index }),
  ...(id !== undefined && { id }),
  type: 'function',
  function: { ...(name !== undefined && { name }), arguments: args },
});
const chat = (...deltas: object[]) =>
  events(...deltas.map((call) => openai.chunk({ tool_calls: [call].flat() })), openai.chunk({}, 'tool_calls')) + DONE;

/** Returns the ids and names that were sent, by index. Each must be sent once. */
function heads({ parts }: Played) {
  return parts.flatMap((part) =>
    part.type === 'tool_call' && (part.id !== undefined || part.name !== undefined)
      ? [[part.index, part.id, part.name]]
      : [],
  );
}

const ONE: [name: string, body: string][] = [
  ['in one delta', chat(toolCall(0, 'c1', 'weather', ARGUMENTS))],
  [
    'in fragments',
    chat(
      toolCall(0, 'c1', 'weather', ''),
      toolCall(0, undefined, undefined, '{"city":'),
      toolCall(0, undefined, undefined, '"Oslo"}'),
    ),
  ],
  [
    'with id and name repeated',
    chat(toolCall(0, 'c1', 'weather', '{"city":'), toolCall(0, 'c1', 'weather', '"Oslo"}')),
  ],
  [
    'with an empty id and name later',
    chat(toolCall(0, 'c1', 'weather', '{"city":'), toolCall(0, '', '', '"Oslo"}'), toolCall(0, '', '', '')),
  ],
  ['with the id before the name', chat({ index: 0, id: 'c1' }, toolCall(0, undefined, 'weather', ARGUMENTS))],
  [
    'without an index',
    chat(toolCall(undefined, 'c1', 'weather', '{"city":'), toolCall(undefined, 'c1', undefined, '"Oslo"}')),
  ],
  [
    'with null for what is missing',
    chat(
      toolCall(0, 'c1', 'weather', '{"city":'),
      { index: 0, id: null, function: { name: null, arguments: '"Oslo"}' } },
      { index: 0, function: null },
      toolCall(0, 'c1', undefined, null),
    ),
  ],
  ['with arguments as an object', chat(toolCall(0, 'c1', 'weather', { city: 'Oslo' }))],
];

t.test('Chat Completions: a tool call has its id and name once, and all its arguments', async (t) => {
  const play = await startDialects(t);
  for (const [name, body] of ONE) {
    const played = await play('openai-compatible', body);
    t.equal(played.error, undefined, `${name}: no error`);
    t.same(played.toolCalls, [{ id: 'c1', name: 'weather', arguments: ARGUMENTS }], name);
    t.same(heads(played), [[0, 'c1', 'weather']], `${name}: id and name in one part`);
    t.equal(played.finish?.reason, 'tool_calls', `${name}: finish reason`);
  }
});

t.test('Chat Completions: a tool call without an id has none', async (t) => {
  const play = await startDialects(t);
  for (const id of [undefined, null, '']) {
    const body = chat({ index: 0, ...(id !== undefined && { id }), function: { name: 'f', arguments: '{}' } });
    const played = await play('openai-compatible', body);
    t.same(played.toolCalls, [{ id: null, name: 'f', arguments: '{}' }]);
    t.same(heads(played), [[0, undefined, 'f']]);
  }
});

const TWO: [name: string, body: string][] = [
  ['one after the other', chat(toolCall(0, 'c1', 'f', '{"a":1}'), toolCall(1, 'c2', 'g', '{"b":2}'))],
  ['in one delta', chat([toolCall(0, 'c1', 'f', '{"a":1}'), toolCall(1, 'c2', 'g', '{"b":2}')])],
  [
    'in turn',
    chat(
      toolCall(0, 'c1', 'f', '{"a"'),
      toolCall(1, 'c2', 'g', '{"b"'),
      toolCall(0, undefined, undefined, ':1}'),
      toolCall(1, undefined, undefined, ':2}'),
    ),
  ],
  [
    'without an index (Mistral)',
    chat([toolCall(undefined, 'c1', 'f', '{"a":1}'), toolCall(undefined, 'c2', 'g', '{"b":2}')]),
  ],
  [
    'without an index, in fragments',
    chat(
      toolCall(undefined, 'c1', 'f', '{"a"'),
      toolCall(undefined, undefined, undefined, ':1}'),
      toolCall(undefined, 'c2', 'g', '{"b"'),
      toolCall(undefined, 'c2', undefined, ':2}'),
    ),
  ],
];

t.test('Chat Completions: parallel tool calls keep their own arguments', async (t) => {
  const play = await startDialects(t);
  for (const [name, body] of TWO) {
    const played = await play('openai-compatible', body);
    t.same(
      played.toolCalls,
      [
        { id: 'c1', name: 'f', arguments: '{"a":1}' },
        { id: 'c2', name: 'g', arguments: '{"b":2}' },
      ],
      name,
    );
    t.same(heads(played), [
      [0, 'c1', 'f'],
      [1, 'c2', 'g'],
    ]);
  }
});

t.test('text before a tool call is a part before it', async (t) => {
  const play = await startDialects(t);
  const bodies: [Dialect, string][] = [
    [
      'openai-compatible',
      events(
        openai.chunk({ content: 'x' }),
        openai.chunk({ tool_calls: [toolCall(0, 'c1', 'f', '{}')] }),
        openai.chunk({}, 'tool_calls'),
      ),
    ],
    [
      'anthropic',
      events(
        anthropic.start(),
        ...anthropic.text('x'),
        anthropic.block(1, { type: 'tool_use', id: 'c1', name: 'f', input: {} }),
        anthropic.delta(1, { type: 'input_json_delta', partial_json: '{}' }),
        ...anthropic.end('tool_use'),
      ),
    ],
    ['gemini', events(gemini.chunk([{ text: 'x' }, { functionCall: { id: 'c1', name: 'f', args: {} } }], 'STOP'))],
    [
      'ollama',
      lines(
        ollama.line({ content: 'x', tool_calls: [{ id: 'c1', function: { name: 'f', arguments: {} } }] }),
        ollama.end('stop'),
      ),
    ],
  ];
  for (const [dialect, body] of bodies) {
    const { parts, toolCalls, finish } = await play(dialect, body);
    t.same(parts[0], { type: 'text', text: 'x' }, dialect);
    t.equal(parts[1]?.type, 'tool_call', dialect);
    t.same(toolCalls, [{ id: 'c1', name: 'f', arguments: '{}' }], dialect);
    t.equal(finish?.reason, 'tool_calls', dialect);
  }
});

t.test('Anthropic: blocks of tool calls are counted from 0, and keep their own arguments', async (t) => {
  const play = await startDialects(t);
  const json = (index: number, partial: string) =>
    anthropic.delta(index, { type: 'input_json_delta', partial_json: partial });
  const body = events(
    anthropic.start(),
    ...anthropic.text('x'),
    anthropic.block(3, { type: 'tool_use', id: 'c1', name: 'f', input: {} }),
    json(3, ''),
    json(3, '{"a"'),
    anthropic.block(4, { type: 'server_tool_use', id: 's1', name: 'web_search', input: {} }),
    json(4, '{"lost":1}'),
    anthropic.block(5, { type: 'tool_use', id: 'c2', name: 'g', input: { b: 2 } }),
    json(3, ':1}'),
    json(9, '{"lost":1}'),
    ...anthropic.end('tool_use'),
  );
  const played = await play('anthropic', body);
  t.same(played.toolCalls, [
    { id: 'c1', name: 'f', arguments: '{"a":1}' },
    { id: 'c2', name: 'g', arguments: '{"b":2}' },
  ]);
  t.same(heads(played), [
    [0, 'c1', 'f'],
    [1, 'c2', 'g'],
  ]);
  const withoutId = await play(
    'anthropic',
    events(
      anthropic.start(),
      { type: 'content_block_start', content_block: { type: 'tool_use', id: null, name: 'f', input: null } },
      { type: 'content_block_delta', delta: { type: 'input_json_delta', partial_json: '{}' } },
      ...anthropic.end('tool_use'),
    ),
  );
  t.same(withoutId.toolCalls, [{ id: null, name: 'f', arguments: '{}' }], 'null is no id, a missing index is 0');
});

t.test('Gemini and Ollama: each call is one part with all its arguments', async (t) => {
  const play = await startDialects(t);
  const expected = [
    { type: 'tool_call', index: 0, id: 'c1', name: 'f', arguments: '{"a":1}' },
    { type: 'tool_call', index: 1, name: 'g', arguments: '{}' },
  ];
  const fromGemini = await play(
    'gemini',
    events(
      gemini.chunk([
        { functionCall: { id: 'c1', name: 'f', args: { a: 1 } } },
        { functionCall: { id: null, name: 'g', args: null } },
      ]),
      gemini.chunk([], 'STOP'),
    ),
  );
  t.same(fromGemini.parts.slice(0, -1), expected, 'Gemini');
  const fromOllama = await play(
    'ollama',
    lines(
      ollama.line({
        tool_calls: [
          { id: 'c1', function: { name: 'f', arguments: { a: 1 } } },
          null,
          { id: null, function: { name: 'g', arguments: null } },
        ],
      }),
      ollama.end('stop'),
    ),
  );
  t.same(fromOllama.parts.slice(0, -1), expected, 'Ollama');
});

t.test('a tool call without a name is an error, and the calls before it are kept', async (t) => {
  const play = await startDialects(t);
  const bodies: [Dialect, string][] = [
    ['openai-compatible', chat(toolCall(0, 'c1', 'f', '{"a":1}'), toolCall(1, 'c2', undefined, '{}'))],
    [
      'anthropic',
      events(
        anthropic.start(),
        anthropic.block(0, { type: 'tool_use', id: 'c1', name: 'f', input: { a: 1 } }),
        anthropic.block(1, { type: 'tool_use', id: null, name: null, input: null }),
        ...anthropic.end('tool_use'),
      ),
    ],
    [
      'gemini',
      events(
        gemini.chunk(
          [{ functionCall: { id: 'c1', name: 'f', args: { a: 1 } } }, { functionCall: { name: null } }],
          'STOP',
        ),
      ),
    ],
    [
      'ollama',
      lines(
        ollama.line({ tool_calls: [{ id: 'c1', function: { name: 'f', arguments: { a: 1 } } }, { function: null }] }),
        ollama.end('stop'),
      ),
    ],
  ];
  for (const [dialect, body] of bodies) {
    const { toolCalls, finish, error } = await play(dialect, body);
    t.match(error, { code: 'upstream_protocol', reason: 'tool_call_without_name', retryable: true }, dialect);
    t.same(toolCalls, [{ id: 'c1', name: 'f', arguments: '{"a":1}' }], dialect);
    t.equal(finish, undefined, `${dialect}: no finish part`);
  }
});

t.test('arguments that are held back for a name have a bound', async (t) => {
  const calls = createToolCalls(createPartBuffer());
  const piece = 'x'.repeat(MAX_EVENT_CHARS / 4);
  t.throws(
    () => {
      for (let i = 0; i <= 4; i++) calls.add([{ index: 0, id: 'c1', function: { arguments: piece } }]);
    },
    { code: 'upstream_protocol', reason: 'event_too_large' },
  );
});
