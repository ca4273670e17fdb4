import fc from 'fast-check';
import type { Test } from 'tap';
import { type Cut, type TcpProxy, tcpProxy } from '../tcp-proxy.ts';

/** Cuts that a request asks for itself, by the header `x-cut`. */

/** A cut as the header names it. */
export type HeaderCut = Cut & { readonly at: number };

/** A cut anywhere in the response to a question. */
export const CUT = fc.record({
  at: fc.integer({ min: 1, max: 1_800 }),
  by: fc.constantFrom('FIN' as const, 'RST' as const),
});

/** Returns the header of a request whose response is cut. */
export const cutHeader = (cut: HeaderCut | undefined): Record<string, string> =>
  cut ? { 'x-cut': `${cut.at} ${cut.by}` } : {};

/** Starts a proxy that cuts the responses to requests with the header. */
export function startCuttingProxy(t: Test, target: string): Promise<TcpProxy> {
  return tcpProxy(t, target, {
    cutOf({ head }) {
      const [, at, by] = /^x-cut: (\d+) (FIN|RST)/im.exec(head) ?? [];
      return at === undefined ? undefined : { at: Number(at), by: by as 'FIN' | 'RST' };
    },
  });
}
