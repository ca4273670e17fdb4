import { decodeContext, encodeContext } from '../stream-context.ts';

/** Names of a run that the client has chosen. Its events repeat them, so they are the context of its stream. */
export interface RunNames {
  readonly threadId: string;
  readonly runId: string;
}

export function encodeRunNames({ threadId, runId }: RunNames): string {
  return encodeContext('agui', { threadId, runId });
}

/** Returns the names of a stream's run; undefined for a stream that another API has started. */
export function runNamesOf({ context }: { readonly context?: string | undefined }): RunNames | undefined {
  return decodeContext<RunNames>('agui', context);
}
