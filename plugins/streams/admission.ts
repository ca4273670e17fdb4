import type { Generation } from './generation.ts';
import type { Terminal } from './types.ts';

/**
 * The generations of this process, each counted from the moment it is admitted: what is about to
 * start, and waits for the store, holds its slot already.
 */
export class AdmissionControl {
  readonly #most: number;
  readonly #taken = new Map<string, Generation | undefined>();
  #refusing = false;
  #ending: Terminal | undefined;
  #waiting: (() => void)[] = [];

  constructor(max: number) {
    this.#most = max;
  }

  get active(): number {
    return this.#taken.size;
  }

  /** Takes a slot under a stream's id, or says why there is none. */
  reserve(id: string): 'taken' | 'draining' | 'full' {
    if (this.#refusing) return 'draining';
    if (this.#taken.size >= this.#most) return 'full';
    this.#taken.set(id, undefined);
    return 'taken';
  }

  /** What runs in the slot, unless it has ended already. */
  attach(id: string, generation: Generation): void {
    if (!this.#taken.has(id)) return;
    this.#taken.set(id, generation);
    if (this.#ending) generation.abort(this.#ending);
  }

  release(id: string): void {
    if (!this.#taken.delete(id) || this.#taken.size > 0) return;
    for (const resolve of this.#waiting) resolve();
    this.#waiting = [];
  }

  /** No slot is given from now on. */
  close(): void {
    this.#refusing = true;
  }

  /** Resolves once no slot is taken. */
  idle(): Promise<void> {
    return this.#taken.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Ends all that runs, and whatever starts after it. */
  endAll(terminal: Terminal): void {
    this.#ending = terminal;
    for (const generation of this.#taken.values()) generation?.abort(terminal);
  }
}
