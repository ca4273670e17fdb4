/** Bytes of memory that one boundary takes at most: four of its position, and room to grow. */
export const BOUNDARY_BYTES = 8;

/**
 * The positions at which the appends of one log end. The array doubles when it is full, so that it takes at most eight
 * bytes for each append while it grows, and four when it is sealed.
 */
export class Boundaries {
  #ends = new Uint32Array(2);
  #count = 0;

  /** Number of appends. */
  get count(): number {
    return this.#count;
  }
  /** Bytes of the array. */
  get bytes(): number {
    return this.#ends.byteLength;
  }

  /** Adds an append that ends at `position`. */
  push(position: number): void {
    if (this.#count === this.#ends.length) this.#resize(this.#count * 2);
    this.#ends[this.#count++] = position;
  }

  /** Returns the position behind the first `count` appends, which must exist. */
  endOf(count: number): number {
    return count === 0 ? 0 : (this.#ends[count - 1] as number);
  }

  /** Returns the number of appends that end at or before `position`. */
  countUpTo(position: number): number {
    let low = 0;
    let high = this.#count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#ends[middle] as number) <= position) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Call after the last append: releases the room to grow. */
  seal(): void {
    this.#resize(this.#count);
  }

  #resize(length: number): void {
    const ends = new Uint32Array(length);
    ends.set(this.#ends.subarray(0, this.#count));
    this.#ends = ends;
  }
}
