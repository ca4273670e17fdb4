import { z } from 'zod';

/** The structured answer that tests of SDKs ask for, and the tool that tells the weather. */

export const Weather = z.object({ city: z.string(), degrees: z.number() });
/** JSON schema of the arguments of the tool. */
export const PARAMETERS = {
  type: 'object' as const,
  properties: { city: { type: 'string' as const } },
  required: ['city'],
  additionalProperties: false as const,
};
