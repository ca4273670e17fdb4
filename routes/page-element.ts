import type { FastifyRequest } from 'fastify';

/** Metadata that browsers add to requests over HTTPS and to loopback. */
const OTHER_MODES: ReadonlySet<unknown> = new Set(['no-cors', 'navigate', 'nested-navigate', 'websocket']);
const OWN_SITES: ReadonlySet<unknown> = new Set(['same-origin', 'none']);

/**
 * Returns true for a GET that a browser has sent for something else than an EventSource or a `fetch` that CORS
 * allows: an `<img>`, a `<script>`, a frame, a link. Such a request of any site must not ask a question.
 *
 * Over plain HTTP browsers add no metadata. There the referrer shows the page, and an element does not accept
 * `text/event-stream`. A `no-cors` fetch without a referrer looks like an EventSource over plain HTTP; use keys there.
 * @param origins origins that CORS allows
 */
export function isPageElement({ headers, host }: FastifyRequest, origins: readonly string[]): boolean {
  // A request with an Origin has passed CORS.
  if (headers.origin !== undefined) return false;
  const { 'sec-fetch-site': site, 'sec-fetch-mode': mode, 'sec-fetch-dest': destination } = headers;
  if (site !== undefined) {
    return !OWN_SITES.has(site) || OTHER_MODES.has(mode) || (destination ?? 'empty') !== 'empty';
  }
  const accept = headers.accept ?? '';
  if (/^Mozilla\//.test(headers['user-agent'] ?? '') && !accept.includes('text/event-stream')) return true;
  const { referer } = headers;
  if (referer === undefined || origins.includes('*')) return false;
  if (!URL.canParse(referer)) return true;
  const page = new URL(referer);
  return page.host !== host && !origins.includes(page.origin);
}
