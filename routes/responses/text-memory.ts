import type { FastifyInstance } from 'fastify';
import type { Stream } from '../../plugins/streams/api.ts';

/**
 * The memory of one reader of events. Unlike other readers it holds the text of the answer, because the last events repeat
 * it. What is longer than usual is claimed from the memory of prompts, which is bounded for each owner and over all.
 */

type Limits = FastifyInstance['limits'];

/** Length of an answer, in UTF-16 units, that needs no claim. */
const FREE_UNITS = 65_536;
/** The text, and one event that repeats it. */
const BYTES_PER_UNIT = 4;
/** A claim covers this part of the answer more than it must, so that claims are few. */
const AHEAD = 1 / 8;

export class TextMemory {
  readonly #limits: Limits;
  readonly #caller: Stream['caller'];
  #claim: ReturnType<Limits['claimBody']> | undefined;
  #release: (() => void) | undefined;
  #units = FREE_UNITS;
  #isReleased = false;

  constructor(limits: Limits, caller: Stream['caller']) {
    this.#limits = limits;
    this.#caller = caller;
  }

  /**
   * Claims what an answer of this length needs. Returns true if that is more than before.
   * @throws 429 or 503 if there is no memory left
   */
  cover(units: number): boolean {
    if (units <= this.#units || this.#isReleased) return false;
    if (this.#claim === undefined) {
      this.#claim = this.#limits.claimBody(this.#caller);
      this.#release = this.#claim.hold();
    }
    const next = units + Math.max(FREE_UNITS, Math.ceil(units * AHEAD));
    this.#limits.growClaim(this.#claim, (next - this.#units) * BYTES_PER_UNIT);
    this.#units = next;
    return true;
  }

  /** Releases all. Idempotent. */
  release(): void {
    this.#isReleased = true;
    this.#release?.();
  }
}
