import t from 'tap';
import type { ProviderState } from '../../providers/types.ts';
import { detailsForClient, extraContentForClient, stateFromClient } from '../../routes/provider-state.ts';

/** Tests the form in which clients get the state of a provider and send it back. */

const STATE: ProviderState = {
  provider: 'p',
  details: [
    { text: 'Hm.', type: 'reasoning.text', signature: 'S', index: 0 },
    { type: 'reasoning.encrypted', data: 'D', before: 1 },
  ],
  extraContent: { 1: { google: { thought_signature: 'G' } } },
};

t.test('state comes back as it was, in every field and in its order', async (t) => {
  const details = detailsForClient(STATE) ?? [];
  const extras = [0, 1].map((call) => extraContentForClient(STATE, call));
  t.match(details, [{ provider: 'p' }, { provider: 'p' }], 'each block names its provider');
  t.same(extras, [undefined, { google: { thought_signature: 'G' }, sluice: { provider: 'p' } }]);
  t.equal(JSON.stringify(stateFromClient(details, extras)), JSON.stringify(STATE));
  const { extraContent: _, ...onlyDetails } = STATE;
  t.same(stateFromClient(details, [null, undefined]), onlyDetails);
  const { details: __, ...onlyExtras } = STATE;
  t.same(stateFromClient([], extras), onlyExtras);
});

t.test('what does not name its provider is left out', async (t) => {
  t.equal(stateFromClient([], []), undefined);
  t.equal(stateFromClient([{ type: 'reasoning.text', text: 'x' }], [{ google: {} }, { sluice: null }]), undefined);
  t.equal(stateFromClient([{ type: 'reasoning.text', provider: 7 }], [{ sluice: { provider: {} } }]), undefined);
  t.equal(stateFromClient([{ provider: 'p', text: 'without a type' }], []), undefined);
});

t.test('a message has the state of one provider: the first one', async (t) => {
  const block = (provider: string) => ({ type: 'reasoning.text', text: provider, provider });
  const extra = (provider: string) => ({ a: provider, sluice: { provider } });
  t.same(stateFromClient([block('p'), block('q')], [extra('q'), extra('p')]), {
    provider: 'p',
    details: [{ type: 'reasoning.text', text: 'p' }],
    extraContent: { 1: { a: 'p' } },
  });
});
