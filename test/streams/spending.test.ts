import t from 'tap';
import type { TokenUse } from '../../plugins/limits/tokens.ts';
import { costUsed } from '../../plugins/streams/spending.ts';
import { endTerminal, errorTerminal, STOPPED } from '../../plugins/streams/terminals.ts';
import type { Usage } from '../../providers/types.ts';
import { SERVER_ERROR } from '../llm/fake-provider.ts';

/** Tests what the generations cost that are counted in metrics. */

const PRICE = { input: 2, output: 10 };
const NONE = { input: 0, output: 0 };
const COUNTED: TokenUse = { counted: { input: 100, output: 50 }, estimated: NONE };
const ESTIMATED: TokenUse = { counted: NONE, estimated: { input: 30, output: 7 } };
const end = (usage?: Usage) => endTerminal({ type: 'finish', reason: 'stop', ...(usage && { usage }) });

t.test('an answer that its provider has counted costs what its readers see', async (t) => {
  const usage = { inputTokens: 100, outputTokens: 50 };
  t.same(costUsed(end({ ...usage, cost: 0.3 }), COUNTED, PRICE), { counted: 0.3, estimated: 0 });
  t.same(costUsed(end({ ...usage, cost: 0.3 }), COUNTED, undefined), { counted: 0.3, estimated: 0 });
  const uncounted = { input: 60, output: 20, cost: 0.1 };
  const mixed = { counted: { input: 40, output: 30 }, estimated: { input: 60, output: 20 } };
  t.same(costUsed(end({ ...usage, cost: 0.3 }), mixed, PRICE, uncounted), { counted: 0.2, estimated: 0.1 });
  t.equal(costUsed(end(usage), COUNTED, PRICE), undefined, 'a cost that readers do not see is unknown here, too');
});

t.test('without a count, an answer costs what its estimate does', async (t) => {
  const cost = { counted: 0, estimated: (30 * 2 + 7 * 10) / 1e6 };
  const failed = errorTerminal(SERVER_ERROR);
  for (const [name, terminal] of Object.entries({ stopped: STOPPED, failed, 'without a usage': end() })) {
    t.same(costUsed(terminal, ESTIMATED, PRICE), cost, name);
    t.equal(costUsed(terminal, ESTIMATED, undefined), undefined, `${name}, without a price`);
  }
  const partial = { counted: { input: 0, output: 50 }, estimated: { input: 30, output: 0 } };
  const expected = { counted: 0, estimated: (30 * 2 + 50 * 10) / 1e6 };
  t.same(costUsed(end({ outputTokens: 50 }), partial, PRICE), expected, 'only one count');
  const free = { counted: NONE, estimated: NONE };
  t.same(costUsed(failed, free, PRICE), { counted: 0, estimated: 0 }, 'no provider has begun to answer');
});
