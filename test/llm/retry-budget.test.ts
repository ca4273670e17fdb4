import t from 'tap';
import { RetryBudget } from '../../plugins/llm/retry-budget.ts';
import { manualClock } from '../manual-clock.ts';

/** Tests how many retries the budget allows, with a clock that the test advances. */

function createBudget() {
  const clock = manualClock();
  // The time at the start is not 0, as with the monotonic clock of a process.
  clock.advance(86_400_000);
  const budget = new RetryBudget(clock);
  /** Withdraws until the budget refuses, and returns how often it did not. */
  const withdrawAll = () => {
    let count = 0;
    while (count < 1_000 && budget.withdraw()) count += 1;
    return count;
  };
  const ask = (questions: number) => {
    for (let i = 0; i < questions; i++) budget.deposit();
  };
  return { clock, budget, withdrawAll, ask };
}

t.test('ten retries are allowed at the start', async (t) => {
  const { withdrawAll, budget } = createBudget();
  t.equal(withdrawAll(), 10);
  t.equal(budget.withdraw(), false, 'a refusal does not change the balance');
});

t.test('the first question after the start adds nothing to a full budget', async (t) => {
  const { withdrawAll, ask } = createBudget();
  ask(1);
  t.equal(withdrawAll(), 10);
});

t.test('ten questions earn one retry', async (t) => {
  const { withdrawAll, ask } = createBudget();
  withdrawAll();
  ask(9);
  t.equal(withdrawAll(), 0, 'nine questions earn none');
  ask(2);
  t.equal(withdrawAll(), 1, 'eleven questions earn one');
  ask(100);
  t.ok([9, 10].includes(withdrawAll()), 'a hundred questions earn ten');
});

t.test('ten seconds earn one retry, at the next question', async (t) => {
  const { withdrawAll, ask, clock } = createBudget();
  withdrawAll();
  clock.advance(8_900);
  ask(1);
  t.equal(withdrawAll(), 0, 'nine seconds and a question earn none');
  clock.advance(200);
  ask(1);
  t.equal(withdrawAll(), 1, 'time counts once');
  clock.advance(30_000);
  t.equal(withdrawAll(), 0, 'time alone is not deposited without a question');
  ask(1);
  t.equal(withdrawAll(), 3, 'thirty seconds earn three');
});

t.test('neither questions nor a quiet hour raise the budget above ten retries', async (t) => {
  const quiet = createBudget();
  quiet.withdrawAll();
  quiet.clock.advance(3_600_000);
  quiet.ask(1);
  t.equal(quiet.withdrawAll(), 10, 'after a quiet hour');

  const busy = createBudget();
  busy.ask(1_000);
  t.equal(busy.withdrawAll(), 10, 'after a thousand questions');
});
