import t from 'tap';
import type { ChatRequest } from '../../providers/types.ts';
import {
  type ClaudeModel,
  claudeModel,
  isSameClaudeModel,
  unsupportedByClaude,
} from '../../providers/wire/claude-models.ts';

/** Tests the rules of Claude models by name. */

type Row = [
  model: string,
  sampling: ClaudeModel['sampling'],
  maxOutputTokens: number,
  thinking: ClaudeModel['thinking'],
  disableThinking: ClaudeModel['disableThinking'],
  hasXhighEffort: boolean,
  hasStructuredOutput: boolean,
  canForceTools: boolean,
];

const ROWS: Row[] = [
  ['claude-2.1', 'both', 4_096, 'unsupported', 'omit', false, false, true],
  ['anthropic.claude-v2:1', 'both', 4_096, 'unsupported', 'omit', false, false, true],
  ['claude-instant-1.2', 'both', 4_096, 'unsupported', 'omit', false, false, true],
  ['claude-3-haiku-20240307', 'both', 4_096, 'unsupported', 'omit', false, false, true],
  ['claude-3-opus-latest', 'both', 4_096, 'unsupported', 'omit', false, false, true],
  ['claude-3-5-sonnet-latest', 'both', 8_192, 'unsupported', 'omit', false, false, true],
  ['claude-3-5-haiku@20241022', 'both', 8_192, 'unsupported', 'omit', false, false, true],
  ['claude-3-7-sonnet-20250219', 'both', 64_000, 'budget', 'omit', false, false, true],
  ['claude-sonnet-4-20250514', 'both', 64_000, 'budget', 'omit', false, false, true],
  ['claude-sonnet-4-0', 'both', 64_000, 'budget', 'omit', false, false, true],
  ['claude-opus-4@20250514', 'both', 32_000, 'budget', 'omit', false, false, true],
  ['claude-opus-4-1-20250805', 'one', 32_000, 'budget', 'omit', false, false, true],
  ['claude-sonnet-4-5-20250929', 'one', 64_000, 'budget', 'omit', false, true, true],
  ['us.anthropic.claude-haiku-4-5-20251001-v1:0', 'one', 64_000, 'budget', 'omit', false, true, true],
  ['claude-opus-4.5', 'one', 64_000, 'budget', 'omit', false, true, true],
  ['claude-opus-4-6', 'one', 128_000, 'adaptive', 'omit', false, true, true],
  ['anthropic.claude-opus-4-6-v1', 'one', 128_000, 'adaptive', 'omit', false, true, true],
  ['claude-sonnet-4-6', 'one', 128_000, 'adaptive', 'omit', false, true, true],
  ['claude-opus-4-7', 'none', 128_000, 'adaptive', 'omit', true, true, true],
  ['claude-opus-4-8', 'none', 128_000, 'adaptive', 'omit', true, true, true],
  ['claude-sonnet-5', 'none', 128_000, 'adaptive', 'disabled', true, true, true],
  ['claude-opus-5', 'none', 128_000, 'adaptive', 'disabled', true, true, true],
  ['claude-fable-5', 'none', 128_000, 'adaptive', 'low_effort', true, true, true],
  ['claude-fable-5-1', 'none', 128_000, 'adaptive', 'low_effort', true, true, false],
  ['anthropic.claude-mythos-5-1', 'none', 128_000, 'adaptive', 'low_effort', true, true, false],
  ['claude-opus-5-5', 'none', 128_000, 'adaptive', 'low_effort', true, true, false],
  ['claude-sonnet-5-5', 'none', 128_000, 'adaptive', 'between_tools', true, true, false],
  ['claude-haiku-5-5', 'none', 128_000, 'adaptive', 'disabled', true, true, true],
  ['claude-opus-6-20270101', 'none', 128_000, 'adaptive', 'low_effort', true, true, false],
  ['claude-mythos-preview', 'none', 128_000, 'adaptive', 'low_effort', true, true, true],
  ['m', 'none', 128_000, 'adaptive', 'low_effort', true, true, true],
];

t.test('the name of a model decides its rules, and unknown names get those of the newest models', async (t) => {
  for (const [model, ...expected] of ROWS) {
    const rules = claudeModel(model);
    const { sampling, maxOutputTokens, thinking, disableThinking, hasXhighEffort } = rules;
    const { hasStructuredOutput, canForceTools } = rules;
    t.same(
      [sampling, maxOutputTokens, thinking, disableThinking, hasXhighEffort, hasStructuredOutput, canForceTools],
      expected,
      model,
    );
  }
});

t.test('an alias and the dated name are the same model', async (t) => {
  t.ok(isSameClaudeModel('claude-sonnet-4-5', 'claude-sonnet-4-5-20250929'));
  t.ok(isSameClaudeModel('anthropic.claude-opus-4-8', 'claude-opus-4-8'));
  t.ok(isSameClaudeModel('claude-sonnet-4-0', 'claude-sonnet-4-20250514'));
  t.notOk(isSameClaudeModel('claude-sonnet-4-5', 'claude-sonnet-4-6'));
  t.notOk(isSameClaudeModel('claude-sonnet-4-5', 'claude-haiku-4-5'));
  t.ok(isSameClaudeModel('m', 'm'));
  t.notOk(isSameClaudeModel('m', 'n'));
});

t.test('a request is unfit for a model that lacks what would change the answer', async (t) => {
  const unsupported = (model: string, request: Partial<ChatRequest>) =>
    unsupportedByClaude({ model, messages: [{ role: 'user', content: 'q' }], ...request });
  const json = {
    options: { response_format: { type: 'json_schema', json_schema: { name: 'n', schema: { type: 'object' } } } },
  };
  for (const model of ['claude-3-5-sonnet-latest', 'claude-sonnet-4-0', 'claude-opus-4-1']) {
    t.equal(unsupported(model, json), 'response_format', model);
  }
  for (const model of ['claude-sonnet-4-5', 'claude-opus-4-8', 'm'])
    t.equal(unsupported(model, json), undefined, model);
  const withoutSchema = { options: { response_format: { type: 'json_schema', json_schema: { name: 'n' } } } };
  t.equal(unsupported('claude-opus-4-8', withoutSchema), 'response_format', 'a format without a schema');
  t.equal(unsupported('claude-3-haiku-20240307', { options: { response_format: { type: 'text' } } }), undefined);

  const tools = [{ name: 'f' }];
  for (const toolChoice of ['required', { name: 'f' }] as const) {
    t.equal(unsupported('claude-opus-5-5', { tools, toolChoice }), 'tool_choice');
    t.equal(unsupported('claude-opus-5', { tools, toolChoice }), undefined);
  }
  t.equal(unsupported('claude-opus-5-5', { tools, toolChoice: 'auto' }), undefined);

  const file = (mimeType: string, url = `data:${mimeType};base64,AA==`) =>
    unsupported('claude-opus-4-8', { messages: [{ role: 'user', content: [{ type: 'file', mimeType, url }] }] });
  t.equal(file('application/pdf'), undefined);
  t.equal(file('application/pdf', 'https://files.example/a.pdf'), undefined);
  t.equal(file('text/plain'), undefined);
  t.equal(file('text/plain', 'https://files.example/a.txt'), 'messages', 'the API reads no text by URL');
  t.equal(file('application/zip'), 'messages');
});
