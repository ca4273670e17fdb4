import { testRate } from './scenarios.ts';

/** Tests routes with a faulty first target at a low rate of questions. */

testRate(1);
testRate(10);
