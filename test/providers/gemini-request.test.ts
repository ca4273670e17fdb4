import t from 'tap';
import type { ChatRequest, UserContent } from '../../providers/types.ts';
import { geminiBody } from '../../providers/wire/gemini-body.ts';
import { needsSignature, unsupportedByGemini } from '../../providers/wire/gemini-models.ts';

/** Tests the body of a request to Gemini: models × options. */

interface Body {
  readonly contents: { parts: Record<string, unknown>[] }[];
  readonly generationConfig?: Record<string, unknown>;
  readonly [field: string]: unknown;
}

const body = (model: string, request: Partial<ChatRequest> = {}) =>
  geminiBody({ model, messages: [{ role: 'user', content: 'q' }], ...request }) as unknown as Body;
const thinking = (model: string, options: Record<string, unknown>) =>
  body(model, { options }).generationConfig?.thinkingConfig;

t.test('reasoning becomes a level, or a budget for Gemini 2.5', async (t) => {
  const level = (thinkingLevel: string) => ({ thinkingLevel, includeThoughts: true });
  const budget = (thinkingBudget: number) => ({ thinkingBudget, includeThoughts: true });
  const rows: [string, Record<string, unknown>, object | undefined][] = [
    ['gemini-3.8-flash', {}, undefined],
    ['gemini-3.8-flash', { reasoning_effort: 'minimal' }, level('low')],
    ['gemini-3.8-flash', { reasoning_effort: 'medium' }, level('medium')],
    ['gemini-3.8-flash', { reasoning_effort: 'xhigh' }, level('high')],
    ['gemini-3.8-flash', { reasoning_effort: 'enormous' }, { includeThoughts: true }],
    ['gemini-3.8-flash', { enable_thinking: true }, { includeThoughts: true }],
    ['gemini-3.8-flash', { reasoning: { max_tokens: 1_000 } }, level('low')],
    ['gemini-3.8-flash', { reasoning: { max_tokens: 10_000 } }, level('medium')],
    ['gemini-3.8-flash', { reasoning: { max_tokens: 30_000 } }, level('high')],
    ['gemini-3.8-flash', { reasoning_effort: 'none' }, { thinkingLevel: 'low' }],
    ['gemini-3-flash-preview', { reasoning_effort: 'minimal' }, level('minimal')],
    ['gemini-3.1-flash-lite', { reasoning_effort: 'none' }, { thinkingLevel: 'minimal' }],
    ['gemini-3-pro-preview', { reasoning_effort: 'medium' }, level('high')],
    ['gemini-3-pro-preview', { reasoning_effort: 'none' }, { thinkingLevel: 'low' }],
    ['gemini-3.1-pro-preview', { reasoning_effort: 'medium' }, level('medium')],
    ['gemini-flash-latest', { reasoning_effort: 'minimal' }, level('low')],
    ['gemini-2.5-flash', { reasoning_effort: 'low' }, budget(1_024)],
    ['gemini-2.5-flash', { reasoning_effort: 'high' }, budget(24_576)],
    ['gemini-2.5-flash', { reasoning: { max_tokens: 99_000 } }, budget(24_576)],
    ['gemini-2.5-flash', { enable_thinking: true }, { includeThoughts: true }],
    ['gemini-2.5-flash', { reasoning_effort: 'none' }, { thinkingBudget: 0 }],
    ['gemini-2.5-flash-lite', { reasoning: { max_tokens: 100 } }, budget(512)],
    ['gemini-2.5-flash-lite', { enable_thinking: true }, budget(-1)],
    ['gemini-2.5-pro', { reasoning: { max_tokens: 1 } }, budget(128)],
    ['gemini-2.5-pro', { reasoning: { max_tokens: 99_000 } }, budget(32_768)],
    ['gemini-2.5-pro', { reasoning_effort: 'none' }, { thinkingBudget: 128 }],
    ['gemini-2.0-flash', { reasoning_effort: 'high' }, undefined],
    ['gemini-1.5-pro', { reasoning_effort: 'none' }, undefined],
    ['gemma-3-27b-it', { reasoning_effort: 'high' }, undefined],
  ];
  for (const [model, options, expected] of rows)
    t.same(thinking(model, options), expected, `${model} ${JSON.stringify(options)}`);
});

t.test('options have the names of generationConfig', async (t) => {
  const options = { seed: 0, top_k: 40, presence_penalty: 0.5, frequency_penalty: -0.5, min_p: 0.1, logit_bias: null };
  t.same(body('gemini-2.5-flash', { options }).generationConfig, {
    seed: 0,
    topK: 40,
    presencePenalty: 0.5,
    frequencyPenalty: -0.5,
  });
  t.same(body('gemini-3.6-flash', { options }).generationConfig, { seed: 0, topK: 40 }, 'models that refuse penalties');
  t.equal(body('gemini-2.5-flash', { options: { seed: null } }).generationConfig, undefined);
});

t.test('a JSON format is mapped, and excludes tools before Gemini 3', async (t) => {
  const schema = { type: 'object', properties: {} };
  const withSchema = { response_format: { type: 'json_schema', json_schema: { name: 'n', schema } } };
  const anyJson = { response_format: { type: 'json_object' } };
  t.same(body('gemini-2.5-flash', { options: withSchema }).generationConfig, {
    responseMimeType: 'application/json',
    responseJsonSchema: schema,
  });
  t.same(body('gemini-2.5-flash', { options: anyJson }).generationConfig, { responseMimeType: 'application/json' });
  t.equal(body('gemini-2.5-flash', { options: { response_format: { type: 'text' } } }).generationConfig, undefined);
  const unsupported = (model: string, options: Record<string, unknown>, tools?: ChatRequest['tools']) =>
    unsupportedByGemini({ model, messages: [], options, ...(tools && { tools }) });
  for (const options of [withSchema, anyJson]) {
    t.equal(unsupported('gemini-2.5-pro', options, [{ name: 'f' }]), 'response_format');
    t.equal(unsupported('gemini-3-pro-preview', options, [{ name: 'f' }]), undefined);
    t.equal(unsupported('gemini-2.5-pro', options), undefined);
  }
});

t.test('images and files are inline data, or a file with its media type', async (t) => {
  const inline = { mimeType: 'application/pdf', data: 'JVBERg==' };
  const content: UserContent[] = [
    { type: 'file', mimeType: 'application/pdf', url: 'data:application/pdf;base64,JVBERg==' },
    { type: 'file', mimeType: 'application/pdf', url: 'https://files.example/b' },
    { type: 'image', url: 'https://images.example/cat.WEBP?size=1.gif#a.png' },
    { type: 'image', url: 'https://images.example/cat' },
    { type: 'image', url: 'https://images.example/v1.2/cat' },
    { type: 'image', url: 'https://[broken/cat.png' },
  ];
  const file = (index: number, mimeType: string) => ({
    fileData: { fileUri: content[index] && 'url' in content[index] && content[index].url, mimeType },
  });
  t.same(body('gemini-3-pro', { messages: [{ role: 'user', content }] }).contents[0]?.parts, [
    { inlineData: inline },
    file(1, 'application/pdf'),
    file(2, 'image/webp'),
    file(3, 'image/jpeg'),
    file(4, 'image/jpeg'),
    file(5, 'image/jpeg'),
  ]);
});

t.test('the media type of a long image URL is read in linear time', async (t) => {
  const url = `https://x/${'.a?'.repeat(1_000_000)}\n`;
  const start = process.cpuUsage().user;
  body('gemini-3-pro', { messages: [{ role: 'user', content: [{ type: 'image', url }] }] });
  t.ok(process.cpuUsage().user - start < 1_000_000, 'less than a second of CPU time');
});

t.test('a step of tool calls has its signatures, or the placeholder if its model needs one', async (t) => {
  const toolCalls = ['a', 'b'].map((id) => ({ id, name: 'f', arguments: '{}' }));
  const google = (signature: string) => ({ google: { thought_signature: signature } });
  const signatures = (model: string, extraContent?: Record<string, Record<string, unknown>>) => {
    const state = extraContent && { state: { provider: 'p', extraContent } };
    const messages = [{ role: 'assistant' as const, content: '', toolCalls, ...state }];
    return body(model, { messages }).contents[0]?.parts.map(({ thoughtSignature }) => thoughtSignature);
  };
  const placeholder = 'skip_thought_signature_validator';
  t.same(signatures('gemini-3-pro'), [placeholder, undefined]);
  t.same(signatures('gemini-3-pro', { 0: google('s0') }), ['s0', undefined]);
  t.same(signatures('gemini-3-pro', { 0: google('s0'), 1: google('s1') }), ['s0', 's1']);
  t.same(signatures('gemini-3-pro', { 1: google('s1') }), [placeholder, 's1']);
  t.same(signatures('gemini-3-pro', { 0: { openai: {} } }), [placeholder, undefined]);
  t.same(signatures('gemini-2.5-flash'), [undefined, undefined]);
  t.same(signatures('gemini-2.5-flash', { 0: google('s0') }), ['s0', undefined]);
  t.notOk(needsSignature('gemma-3-27b-it'));
  t.ok(needsSignature('gemini-flash-latest'));
});

t.test('options that the operator forwards go into the body unchanged', async (t) => {
  const options = { safetySettings: [{ category: 'c' }], other: 1 };
  const sent = body('gemini-3-pro', { options, forward: ['safetySettings'] });
  t.same(Object.keys(sent).sort(), ['contents', 'safetySettings']);
  t.same(sent.safetySettings, [{ category: 'c' }]);
  const { generationConfig, seed } = body('gemini-3-pro', { options: { seed: 1 }, forward: ['seed'] });
  t.same([generationConfig, seed], [undefined, 1], 'and not in two places');
});
