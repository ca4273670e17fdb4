/** Calendar periods in UTC. Pure. */

export interface CalendarPeriod {
  /** Date of the day, or year and month. */
  readonly name: string;
  /** Milliseconds since 1970 at which the next period begins. */
  readonly ends: number;
}

/** Returns the period at a time in milliseconds since 1970. */
export function calendarPeriod(kind: 'day' | 'month', now: number): CalendarPeriod {
  const date = new Date(now);
  const [year, month] = [date.getUTCFullYear(), date.getUTCMonth()];
  if (kind === 'month') return { name: date.toISOString().slice(0, 7), ends: Date.UTC(year, month + 1, 1) };
  return { name: date.toISOString().slice(0, 10), ends: Date.UTC(year, month, date.getUTCDate() + 1) };
}
