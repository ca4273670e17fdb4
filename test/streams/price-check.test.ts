import t from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import type { ModelRoute } from '../../plugins/config/model-routes.ts';
import type { ModelPrice } from '../../plugins/config/price-file.ts';
import { createPriceCheck } from '../../plugins/streams/price-check.ts';

/** Tests who needs a price, and what a refusal says. */

const PRICES: ModelPrice[] = [{ input: 1, output: 1 }];
const BUDGET = { budget: { period: 'day' as const, amount: 1 } };
const key: Identity = { owner: 'key:a' };
const route = { name: 'm' } as ModelRoute;
const thrown = (message: string) => new Error(message);
const checkWith = (prices: ModelPrice[] | undefined) =>
  createPriceCheck({
    llm: { prices: () => prices },
    apiError: ({ status, message }) => thrown(`${status} ${message}`),
    invalidRequest: (message, status) => thrown(`${status} ${message}`),
  });

const CALLERS: readonly [who: string, identity: Identity, needsPrice: boolean, isPage: boolean][] = [
  ['a key without a budget', key, false, false],
  ['a key with a budget', { ...key, ...BUDGET }, true, false],
  ['a ticket of such a key', { ...key, ...BUDGET, ticket: { nonce: 't', expires: 0, questions: 1 } }, true, true],
  ['a visitor without a budget', { owner: 'v', holder: key }, false, true],
  ['a visitor with a budget', { owner: 'v', ...BUDGET, holder: key }, true, true],
  ['a visitor of a key with a budget', { owner: 'v', holder: { ...key, ...BUDGET } }, true, true],
];

for (const [who, identity, needsPrice, isPage] of CALLERS) {
  t.test(`${who} needs ${needsPrice ? 'a' : 'no'} price`, async (t) => {
    t.equal(checkWith(PRICES)(route, { messages: [] }, identity), needsPrice ? PRICES : undefined);
    const check = () => checkWith(undefined)(route, { messages: [] }, identity);
    if (!needsPrice) t.equal(check(), undefined);
    else
      t.throws(
        check,
        thrown(
          isPage
            ? '403 This model cannot be used here; use another one.'
            : `403 The model m has no price; a key with a budget cannot use it. Set models[].price or PRICES_FILE.`,
        ),
      );
  });
}
