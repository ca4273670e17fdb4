import { load } from '../clients/packages.ts';

/** Runs AG-UI's own client over a list of events: its schemas, its verifier, and its reducer. */

export interface AguiMessage {
  readonly id: string;
  readonly role: string;
  readonly content?: string;
  readonly toolCalls?: readonly {
    readonly id: string;
    readonly function: { readonly name: string; readonly arguments: string };
    readonly encryptedValue?: string;
  }[];
}

export interface AgentRun {
  readonly messages: AguiMessage[];
  readonly result: unknown;
  /** Warnings of the client: unknown events and fields. */
  readonly warnings: string[];
}

interface Agent {
  messages: AguiMessage[];
  runAgent(): Promise<{ result: unknown }>;
}

/** Applies the events as `HttpAgent` does. Rejects if a schema or the verifier refuses one. */
export async function applyEvents(events: readonly object[]): Promise<AgentRun> {
  const { AbstractAgent } = await load<{ AbstractAgent: new () => Agent }>('@ag-ui/client');
  const { from } = await load<{ from(events: readonly object[]): unknown }>('rxjs');
  class ListAgent extends AbstractAgent {
    run() {
      return from(events);
    }
  }
  const agent = new ListAgent();
  const warnings: string[] = [];
  const { warn, error } = console;
  console.warn = (message) => void warnings.push(String(message));
  console.error = () => {};
  try {
    const { result } = await agent.runAgent();
    return { messages: agent.messages, result, warnings };
  } finally {
    Object.assign(console, { warn, error });
  }
}
