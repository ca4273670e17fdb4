import fc from 'fast-check';
import t from 'tap';
import { bodySchemaOf, type Draft, describe, validRequest, wrongRequest } from './fuzz/requests.ts';
import { REQUESTS_PER_MINUTE, startFuzzService } from './fuzz/service.ts';
import type { Schema } from './fuzz/values.ts';
import { findFaults, isAccepted, isRefusal } from './fuzz/verdict.ts';
import { createChecker, operationsOf, readDocument } from './openapi-document.ts';

/**
 * Fuzzes every operation of the OpenAPI document: with valid requests, and with requests that have exactly one thing
 * wrong. `FUZZ_MINUTES` repeats this for a time; `SEED` repeats a run.
 */

const MINUTES = Number(process.env.FUZZ_MINUTES || 0);
const RUNS = Number(process.env.RUNS || 12);
/** The same requests in every run of the suite, others in each long run. */
const SEED = Number(process.env.SEED ?? (MINUTES > 0 ? Date.now() % 2 ** 31 : 1));
/** Wrong requests for each valid one: there are more ways to be wrong. */
const WRONG_SHARE = 3;
const MAX_EXTRA_ROUNDS = 5;

t.test(
  'the schemas and the code agree on every request, and each is counted',
  { timeout: (MINUTES + 2) * 60_000 },
  async (t) => {
    const service = await startFuzzService(t);
    const document = await readDocument(service.app);
    const check = await createChecker(t, document, false);
    const shared = document.components.schemas as Record<string, Schema>;
    const statuses: Record<string, number> = {};
    const seen = new Set<string>();
    let requests = 0;
    let remaining = Number.NaN;

    const play = async (draft: Draft) => {
      const operation = operationsOf(document).get(draft.operation);
      if (operation === undefined) throw new Error('no such operation');
      const schema = bodySchemaOf(operation);
      const outcome = await service.send(draft);
      const findProblem = (value: unknown) => schema && check(schema as Record<string, unknown>, value);
      const faults = findFaults(service, draft, outcome, { operation, findProblem });
      const { status, headers } = outcome;
      requests += 1;
      statuses[status] = (statuses[status] ?? 0) + 1;
      seen.add(`${draft.operation} ${draft.wrong ? 'wrong' : 'valid'} ${status < 400 ? 'accepted' : 'refused'}`);

      // Every refused request of a key costs one of its requests. A new minute begins with all of them.
      const left = Number(headers['ratelimit-remaining']);
      // The limit of a visitor for its tickets is shown in place of that of the key.
      const isOfVisitor = draft.operation === 'post /tickets' && draft.body?.includes('requestsPerMinute') === true;
      const isCharged = !isOfVisitor && Number(headers['ratelimit-limit']) === REQUESTS_PER_MINUTE;
      const isAuthenticated = !draft.wrong?.wire?.isUnauthenticated && isAccepted(draft, operation);
      if (draft.credentials === 'key' && isAuthenticated && isRefusal(status) && operation.security?.length !== 0) {
        if (!isCharged && !isOfVisitor) faults.push('the refusal costs the key nothing');
      }
      if (isCharged && draft.credentials === 'key' && left < remaining - 1)
        faults.push(`${remaining - left} requests charged`);
      if (isCharged && left === remaining) faults.push('charged nothing');
      // A ticket is a request, too.
      if (draft.credentials === 'ticket' || isOfVisitor) remaining = Number.NaN;
      else if (isCharged) remaining = left;
      if (faults.length > 0)
        throw new Error(`${faults.join('; ')}\n${describe(draft)}\n-> ${status} ${outcome.body.slice(0, 300)}`);
    };

    const operations = operationsOf(document);
    /** Returns the outcomes that no request has had yet. A service that refuses or accepts everything would hide faults. */
    const missing = () =>
      [...operations.keys()]
        .flatMap((name) => [`${name} valid accepted`, `${name} wrong refused`])
        .filter((one) => !seen.has(one));
    const endsAt = Date.now() + MINUTES * 60_000;
    let rounds = 0;
    for (; rounds === 0 || Date.now() < endsAt || (missing().length > 0 && rounds < MAX_EXTRA_ROUNDS); rounds++) {
      await service.renewStreams();
      remaining = Number.NaN;
      for (const [name, operation] of operations) {
        const options = { seed: SEED + rounds, numRuns: RUNS };
        const wrong = { ...options, numRuns: RUNS * WRONG_SHARE };
        await fc.assert(fc.asyncProperty(validRequest(name, operation, shared), play), options);
        await fc.assert(fc.asyncProperty(wrongRequest(name, operation, shared), play), wrong);
      }
    }
    t.same(missing(), [], 'every operation accepts valid requests and refuses wrong ones');
    t.comment(`${requests} requests in ${rounds} rounds, seed ${SEED}, by status: ${JSON.stringify(statuses)}`);
  },
);
