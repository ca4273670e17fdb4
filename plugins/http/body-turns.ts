import type { Clock } from '../clock.ts';

/** The work on one body. Each step takes a turn of the event loop. */
export type BodySteps = Iterator<void, void>;

export interface BodyTurns {
  /** Adds a body. Its steps run when it is its owner's turn. */
  add(owner: string, steps: BodySteps): void;
  /** Drops all bodies that wait. */
  close(): void;
}

export interface BodyTurnsOptions {
  readonly clock: Clock;
  /** Called with an error that a step has thrown. The body is finished with that. */
  onFault(error: unknown): void;
}

/** Pause after a body, as a multiple of the time that it took: large bodies get a third of the event loop at most. */
const PAUSE_FACTOR = 2;
/** A shorter pause is one turn of the event loop. */
const MIN_PAUSE_MS = 1;

/**
 * Gives the event loop to one large body at a time, and to everything else between its steps and between two bodies. So
 * an owner that sends large bodies as fast as it can delays a question of another owner by one step, and not by all
 * bodies that have arrived. Owners take turns. The memory of the bodies is bounded by their claims.
 */
export function createBodyTurns({ clock, onFault }: BodyTurnsOptions): BodyTurns {
  /** Waiting bodies by owner, in the order of their turns. */
  const waiting = new Map<string, BodySteps[]>();
  let lastOwner: string | undefined;
  let isBusy = false;
  let isClosed = false;
  let cancelPause = () => {};

  function startNext(): void {
    const [first, second] = waiting;
    // The owner of the last body goes behind all others, also if its next body came first.
    const turn = first?.[0] === lastOwner ? (second ?? first) : first;
    isBusy = turn !== undefined;
    if (turn === undefined) return;
    const [owner, bodies] = turn;
    lastOwner = owner;
    const steps = bodies.shift() as BodySteps;
    waiting.delete(owner);
    if (bodies.length > 0) waiting.set(owner, bodies);
    runStep(steps, 0);
  }

  /** @param busyMs time that the earlier steps took */
  function runStep(steps: BodySteps, busyMs: number): void {
    let startedAt = 0;
    let isLast = true;
    setImmediate(() => {
      if (isClosed) return;
      startedAt = clock.now();
      try {
        isLast = steps.next().done === true;
      } catch (error) {
        onFault(error);
      }
    });
    // Runs right after what the step has resolved: the rest of the request, until it waits for something.
    setImmediate(() => {
      const ms = busyMs + clock.now() - startedAt;
      if (isClosed) return;
      if (!isLast) runStep(steps, ms);
      else if (ms * PAUSE_FACTOR < MIN_PAUSE_MS) startNext();
      else cancelPause = clock.after(ms * PAUSE_FACTOR, startNext);
    });
  }

  return {
    add(owner, steps) {
      if (isClosed) return;
      const bodies = waiting.get(owner);
      if (bodies === undefined) waiting.set(owner, [steps]);
      else bodies.push(steps);
      if (!isBusy) startNext();
    },
    close() {
      isClosed = true;
      cancelPause();
      waiting.clear();
    },
  };
}
