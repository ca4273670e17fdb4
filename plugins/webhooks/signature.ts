import { createHmac } from 'node:crypto';

/** Signs messages as Standard Webhooks describes it. */

export interface Message {
  /** The same in every attempt, so that a receiver can recognise a repetition. */
  readonly id: string;
  readonly body: string;
}

/**
 * Returns the headers of one attempt.
 * @param secrets each `whsec_` and a key in base64; a receiver needs any of them
 * @param now milliseconds since 1970; receivers refuse a message that is older than a few minutes
 */
export function signedHeaders({ id, body }: Message, secrets: readonly string[], now: number): Record<string, string> {
  const timestamp = String(Math.floor(now / 1_000));
  const signatures = secrets.map((secret) => {
    const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
    return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`;
  });
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures.join(' ') };
}
