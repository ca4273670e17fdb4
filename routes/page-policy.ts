/**
 * The content security policy of the pages of this service. It forbids content from other sites, inline scripts and
 * styles, forms, and frames around the page. It does not upgrade requests to HTTPS, because a gateway terminates TLS.
 */
export const PAGE_POLICY = {
  useDefaults: false,
  directives: {
    defaultSrc: ["'none'"],
    scriptSrc: ["'self'"],
    styleSrc: ["'self'"],
    imgSrc: ["'self'"],
    connectSrc: ["'self'"],
    baseUri: ["'none'"],
    formAction: ["'none'"],
    frameAncestors: ["'none'"],
  },
};
