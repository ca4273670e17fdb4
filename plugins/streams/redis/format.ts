/**
 * Version of what this service stores of a stream in Redis. A change that an older version would misread raises it. A
 * stream keeps the version that it was created with, also after a takeover.
 */
export const FORMAT = 1;
