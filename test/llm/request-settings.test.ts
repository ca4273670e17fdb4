import t from 'tap';
import { applySettings } from '../../plugins/llm/request-settings.ts';
import type { ChatRequest } from '../../providers/types.ts';

/** Tests the operator's changes to the options of requests. */

const REQUEST: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'q' }] };
const TOOLS = [{ name: 'f' }];

t.test('without settings, the request is the same', async (t) => {
  const request = { ...REQUEST, temperature: 1, tools: TOOLS, toolChoice: 'auto', options: { seed: 1 } } as const;
  t.same(applySettings(request, [undefined, {}]), request);
});

t.test('defaults are used where the request says nothing', async (t) => {
  const defaults = {
    temperature: 0.1,
    top_p: 0.2,
    max_tokens: 300,
    stop: 'end',
    seed: 4,
    num_ctx: 8192,
    tool_choice: { type: 'function', function: { name: 'f' } },
  };
  t.same(applySettings({ ...REQUEST, tools: TOOLS }, [{ defaults }]), {
    ...REQUEST,
    tools: TOOLS,
    temperature: 0.1,
    topP: 0.2,
    maxTokens: 300,
    stop: ['end'],
    toolChoice: { name: 'f' },
    options: { seed: 4, num_ctx: 8192 },
  });
  const asked = { ...REQUEST, temperature: 0, maxTokens: 1, stop: ['x'], options: { seed: 0 } };
  const { seed: _, num_ctx: __, ...named } = defaults;
  t.match(applySettings(asked, [{ defaults: { ...named, seed: 9 } }]), asked, 'also where it says 0');
  t.notOk('toolChoice' in applySettings(REQUEST, [{ defaults }]), 'no choice of tools without tools');
  t.equal(applySettings(REQUEST, [{ defaults: { max_completion_tokens: 7 } }]).maxTokens, 7);
});

t.test('settings of the model win over those of the provider, lists of both apply', async (t) => {
  const model = { defaults: { seed: 1 }, drop: ['user'], forward: ['a'] };
  const provider = { defaults: { seed: 2, top_k: 3 }, drop: ['top_p'], forward: ['b'] };
  const request = { ...REQUEST, topP: 1, options: { user: 'u', metadata: {} } };
  t.same(applySettings(request, [model, provider]), {
    ...REQUEST,
    options: { metadata: {}, seed: 1, top_k: 3 },
    forward: ['a', 'b'],
  });
});

t.test('a dropped option is left out, also if it is a default', async (t) => {
  const request = { ...REQUEST, temperature: 1, tools: TOOLS, toolChoice: 'none', options: { seed: 1 } } as const;
  const drop = ['temperature', 'seed', 'tools', 'max_tokens'];
  t.same(applySettings(request, [{ drop, defaults: { max_tokens: 5 } }]), REQUEST);
});
