import type { Static } from '@sinclair/typebox';
import type { Capabilities } from './schema.ts';

/** The capabilities of `POST /agui`, as AG-UI's `getCapabilities` tells them. They do not depend on the model. */
export const CAPABILITIES: Static<typeof Capabilities> = {
  identity: { name: 'sluice', type: 'llm', description: 'Streams the answers of language models' },
  transport: { streaming: true, websocket: false, httpBinary: false, pushNotifications: false, resumable: true },
  tools: { supported: true, clientProvided: true, parallelCalls: true },
  output: { structuredOutput: false },
  state: { snapshots: false, deltas: false, memory: false, persistentState: false },
  multiAgent: { supported: false },
  reasoning: { supported: true, streaming: true, encrypted: true },
  multimodal: {
    input: { image: true, audio: false, video: false, pdf: true, file: false },
    output: { image: false, audio: false },
  },
  execution: { codeExecution: false },
  humanInTheLoop: { supported: false },
};
