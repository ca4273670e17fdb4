import { testRate } from './scenarios.ts';

/** Tests routes with a faulty first target at a high rate of questions. */

testRate(100);
