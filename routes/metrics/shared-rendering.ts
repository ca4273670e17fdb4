interface Clock {
  now(): number;
  after(ms: number, fn: () => void): () => void;
}

export interface SharedRendering {
  /** Returns a text that is rendered after the call. */
  text(): Promise<string>;
  /** Ends the wait of callers: renders what they asked for. */
  close(): void;
}

/**
 * Renders a text at most once in `intervalMs`, however often it is asked for. Callers in between share the next
 * rendering, so nobody gets a text that is older than their call.
 */
export function shareRenderings(render: () => Promise<string>, clock: Clock, intervalMs: number): SharedRendering {
  let earliest = Number.NEGATIVE_INFINITY;
  let next: Promise<string> | undefined;
  let start = () => {};

  const renderNow = async () => {
    earliest = clock.now() + intervalMs;
    return render();
  };
  const renderNext = () =>
    new Promise<string>((resolve) => {
      start = () => {
        cancel();
        start = () => {};
        next = undefined;
        resolve(renderNow());
      };
      const cancel = clock.after(earliest - clock.now(), () => start());
    });

  return {
    text() {
      if (next === undefined && clock.now() >= earliest) return renderNow();
      next ??= renderNext();
      return next;
    },
    close: () => start(),
  };
}
