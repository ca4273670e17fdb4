/** The place of an event in its run. */
export interface EventId {
  readonly position: number;
  /** Counts the events between two contents, from 1; 0 for an event with content, and for the first of the run. */
  readonly number: number;
}

/** A place in a stream that a client has reached; `end` if it has the last event. */
export interface ResumePoint {
  readonly stream: string;
  readonly after: EventId | 'end';
}

const ID = /^([A-Za-z0-9_-]{16,64})\.(?:(\d{1,15})(?:\.(\d{1,6}))?|end)$/;

/** Returns the SSE id of an event: `<stream>.<position>`, or `<stream>.<position>.<number>`. */
export function formatEventId(stream: string, { position, number }: EventId): string {
  return number === 0 ? `${stream}.${position}` : `${stream}.${position}.${number}`;
}

/** Returns the place of an SSE id; undefined for text that is not one. */
export function parseEventId(text: string): ResumePoint | undefined {
  const [, stream, position, number = 0] = ID.exec(text) ?? [];
  if (stream === undefined) return undefined;
  if (position === undefined) return { stream, after: 'end' };
  return { stream, after: { position: Number(position), number: Number(number) } };
}
