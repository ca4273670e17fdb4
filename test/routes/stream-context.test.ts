import t from 'tap';
import { decodeContext, encodeContext } from '../../routes/stream-context.ts';

t.test('a context is read by the API that has written it alone', async (t) => {
  const data = { name: '"agui",\u2028\n', nested: [{ ui: true }] };
  const context = encodeContext('ui', data);
  t.type(context, 'string');
  t.same(decodeContext('ui', context), data);
  t.equal(decodeContext('agui', context), undefined);
  t.equal(decodeContext('ui', undefined), undefined);
});
