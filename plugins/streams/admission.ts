import type { Generation } from './generation.ts';
import type { Terminal } from './types.ts';

/**
 * Admits generations of this process up to a bound. A generation holds its slot from admission, also
 * while it waits for the store.
 */
export class AdmissionControl {
  readonly #max: number;
  readonly #slots = new Map<string, Generation | undefined>();
  #isClosed = false;
  #endingWith: Terminal | undefined;
  #idleListeners: (() => void)[] = [];

  constructor(max: number) {
    this.#max = max;
  }

  /** Number of reserved slots. */
  get active(): number {
    return this.#slots.size;
  }

  /** Reserves a slot under the id of a stream, or returns why there is none. */
  reserve(id: string): 'reserved' | 'draining' | 'full' {
    if (this.#isClosed) return 'draining';
    if (this.#slots.size >= this.#max) return 'full';
    this.#slots.set(id, undefined);
    return 'reserved';
  }

  /** Attaches the running generation to its slot. Without effect if it has ended already. */
  attach(id: string, generation: Generation): void {
    if (!this.#slots.has(id)) return;
    this.#slots.set(id, generation);
    if (this.#endingWith) generation.abort(this.#endingWith);
  }

  release(id: string): void {
    if (!this.#slots.delete(id) || this.#slots.size > 0) return;
    for (const resolve of this.#idleListeners.splice(0)) resolve();
  }

  /** Refuses all further reservations. */
  close(): void {
    this.#isClosed = true;
  }

  /** Resolves when no slot is reserved. */
  idle(): Promise<void> {
    return this.#slots.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#idleListeners.push(resolve));
  }

  /** Ends all running generations, and those that are attached later. */
  endAll(terminal: Terminal): void {
    this.#endingWith = terminal;
    for (const generation of this.#slots.values()) generation?.abort(terminal);
  }
}
