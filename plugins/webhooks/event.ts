/** Makes the events that webhooks deliver, as OpenAI's API sends them. */

/** The end of a background answer. */
export interface EndedResponse {
  /** Id of the stream. */
  readonly id: string;
  readonly status: 'completed' | 'incomplete' | 'failed' | 'cancelled';
  /** Milliseconds since 1970. */
  readonly endedAt: number;
}

/** Returns the id of the event: the same for every attempt, on every replica, also after a crash. */
export function eventId(id: string): string {
  return `evt_${id}`;
}

/** Returns the event as JSON. It names the response, and has no text of it. */
export function encodeEvent({ id, status, endedAt }: EndedResponse): string {
  return JSON.stringify({
    id: eventId(id),
    object: 'event',
    created_at: Math.floor(endedAt / 1_000),
    type: `response.${status}`,
    data: { id: `resp_${id}` },
  });
}
