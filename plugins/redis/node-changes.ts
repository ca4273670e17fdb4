import type { Clock } from '../clock.ts';

/** A client of a cluster, as far as it tells of nodes. */
export interface NodeSource {
  /** Names of the nodes of each slot, the primary first. */
  readonly slots: readonly (readonly string[] | undefined)[];
  on(event: '+node' | '-node' | 'refresh', listener: () => void): unknown;
}

/** Time for which changes are collected: less than a replica needs to become a primary. */
const COLLECT_MS = 100;
/** Least time between two reports, for example while many slots move. */
const MIN_INTERVAL_MS = 1_000;

/**
 * Calls `report` soon after a node of a cluster was added or lost, or a slot has another primary: a replica that became
 * a primary may lack the last writes. Returns a function that stops this.
 */
export function watchNodes(source: NodeSource, clock: Clock, report: () => void): () => void {
  let owners: (string | undefined)[] = [];
  let reportedAt = Number.NEGATIVE_INFINITY;
  let cancel: (() => void) | undefined;
  let isClosed = false;

  const onChange = () => {
    if (isClosed || cancel !== undefined) return;
    const waitMs = Math.max(COLLECT_MS, reportedAt + MIN_INTERVAL_MS - clock.now());
    cancel = clock.after(waitMs, () => {
      cancel = undefined;
      reportedAt = clock.now();
      report();
    });
  };

  source.on('+node', onChange);
  source.on('-node', onChange);
  // The client reads the slots every few seconds, and after a redirection.
  source.on('refresh', () => {
    const before = owners;
    owners = Array.from(source.slots, (nodes) => nodes?.[0]);
    const isFirst = before.length === 0;
    if (!isFirst && owners.some((owner, slot) => owner !== before[slot])) onChange();
  });

  return () => {
    isClosed = true;
    cancel?.();
  };
}
