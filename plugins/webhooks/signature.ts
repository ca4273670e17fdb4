import { createHmac } from 'node:crypto';

/** Signs messages as Standard Webhooks describes it. */

export interface Message {
  /** The same in every attempt, so that a receiver can recognise a repetition. */
  readonly id: string;
  readonly body: string;
}

/**
 * Returns the headers of one attempt.
 * @param secret `whsec_` and the key in base64
 * @param now milliseconds since 1970; receivers refuse a message that is older than a few minutes
 */
export function signedHeaders({ id, body }: Message, secret: string, now: number): Record<string, string> {
  const timestamp = String(Math.floor(now / 1_000));
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
  const signature = createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64');
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': `v1,${signature}` };
}
