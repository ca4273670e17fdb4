import t from 'tap';
import { TextMemory } from '../../routes/responses/text-memory.ts';

/** The memory that a reader claims for the text of its answer. */

/** An answer of this length needs no claim. */
const FREE = 65_536;
/** The text, and one event that repeats it, in bytes for each unit. */
const UNIT_BYTES = 4;

function setUp({ bytes = Number.POSITIVE_INFINITY } = {}) {
  const log = { claims: 0, holds: 0, claimed: 0 };
  const held = new Set<object>();
  const limits = {
    claimBody() {
      log.claims += 1;
      return {
        hold() {
          const hold = {};
          held.add(hold);
          log.holds += 1;
          return () => void held.delete(hold);
        },
      };
    },
    growClaim(_claim: unknown, more: number) {
      if (log.claimed + more > bytes) throw new Error('full');
      log.claimed += more;
    },
  };
  return { log, held, memory: new TextMemory(limits as never, {} as never) };
}

t.test('an answer of usual length claims nothing', async (t) => {
  const { log, memory } = setUp();
  for (const units of [0, 1, FREE]) t.notOk(memory.cover(units), `${units} units`);
  t.same(log, { claims: 0, holds: 0, claimed: 0 });
});

t.test('a longer one is covered at every length, by one claim that grows rarely', async (t) => {
  const { log, held, memory } = setUp();
  const length = 64 * FREE;
  let grown = 0;
  for (let units = 0; units <= length; units += 1_000) {
    if (memory.cover(units)) grown += 1;
    if (units > FREE && log.claimed < (units - FREE) * UNIT_BYTES) t.fail(`${units} units have ${log.claimed} bytes`);
  }
  t.same([log.claims, log.holds, held.size], [1, 1, 1]);
  t.ok(grown > 1 && grown <= 40, `${grown} times`);
  t.ok(log.claimed <= length * UNIT_BYTES * 1.125, `${log.claimed} bytes`);
  memory.release();
  memory.release();
  t.equal(held.size, 0);
});

t.test('what has been released claims nothing more', async (t) => {
  const { log, memory } = setUp();
  memory.release();
  t.notOk(memory.cover(2 * FREE));
  t.same(log, { claims: 0, holds: 0, claimed: 0 });
});

t.test('a reader without memory is told, and holds nothing after its release', async (t) => {
  const { log, held, memory } = setUp({ bytes: FREE });
  t.throws(() => memory.cover(FREE + 1), /full/);
  memory.release();
  t.same([held.size, log.claimed], [0, 0]);
});
