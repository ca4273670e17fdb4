/**
 * Abilities of each client, and the tests that show them. `npm run docs` writes this table into docs/clients.md; a test
 * compares both, and looks for each test.
 */

export const COLUMNS = ['ask', 'resume', 'stop', 'tools', 'reasoning'] as const;

export type Column = (typeof COLUMNS)[number];

/** A test: its file in `test/`, and its title, or a part of it, as the file has it. */
export interface Evidence {
  readonly file: string;
  readonly title: string;
  /** File that has the test, if that of the client calls it: `testPages`. */
  readonly sharedBy?: string;
}

export interface ClientRow {
  readonly name: string;
  /** First version that works. */
  readonly version: string;
  /** Page in docs/, relative to it. */
  readonly page: string;
  /** Columns that are missing cannot be done with the client. */
  readonly cells: Readonly<Partial<Record<Column, Evidence>>>;
}

const packages = (title: string): Evidence => ({ file: 'clients/packages.test.ts', title });
const inBrowser = (title: string): Evidence => ({ file: 'clients/packages-browser.test.ts', title });

const agui = (file: string, title: string): Evidence => ({ file: `clients/${file}.test.ts`, title });

/** A test that the file of each client of AG-UI calls. */
const aguiPage = (file: string, title: string): Evidence => ({
  ...agui(file, title),
  sharedBy: 'agui/client-pages.ts',
});

const CUT_RUN = 'a cut after any number of bytes, once and twice';
const STOP = 'stop ends the call, also after a cut';
const CUTS = inBrowser('fetch-event-source, polyfill, react-native-sse: a cut behind any byte loses nothing');
const PAGES = inBrowser('heartbeats between all events: fetch-event-source, polyfill, react-native-sse');
const HEARTBEATS = packages('heartbeats between all events');
const OPENAI = packages('openai 6 and 7: tools, reasoning, resume and stop');
const LANGCHAIN = packages('LangChain: tools and stop');
const AI = packages('ai 6 and 7 with openai-compatible: tools, reasoning and stop');
const responses = (title: string): Evidence => ({ file: 'sdk/responses.test.ts', title });
const EVENT_SOURCE = packages('eventsource 4 and 5: a cut loses nothing, and stop ends the call');
const TRANSPORT: Evidence = { file: 'client/ai.test.ts', title: 'the chunks are those of the service' };
const BROWSER_CUTS: Evidence = {
  file: 'reconnect.test.ts',
  title: 'three cuts during the answer: the browser resumes and gets every word once',
};

export const CLIENTS: readonly ClientRow[] = [
  {
    name: '`EventSource` of browsers',
    version: 'all',
    page: 'resume.md',
    cells: {
      ask: { file: 'clients.test.ts', title: 'the EventSource of a browser receives the answer exactly' },
      resume: BROWSER_CUTS,
      stop: {
        file: 'routes/streams.test.ts',
        title: 'a stop cancels the upstream call, and every reader gets the end',
      },
    },
  },
  {
    name: '`eventsource`',
    version: '4',
    page: 'clients/eventsource.md',
    cells: { ask: HEARTBEATS, resume: EVENT_SOURCE, stop: EVENT_SOURCE },
  },
  {
    name: '`event-source-polyfill`',
    version: '1.0',
    page: 'clients/eventsource.md',
    cells: { ask: PAGES, resume: CUTS },
  },
  {
    name: '`@microsoft/fetch-event-source`',
    version: '2.0',
    page: 'clients/fetch-event-source.md',
    cells: {
      ask: PAGES,
      resume: CUTS,
      stop: inBrowser('fetch-event-source: hidden and back, reload with the key, stop'),
    },
  },
  {
    name: '`react-native-sse`',
    version: '1.2',
    page: 'clients/react-native-sse.md',
    cells: { ask: PAGES, resume: CUTS },
  },
  {
    name: '`openai`',
    version: '6',
    page: 'clients/openai.md',
    cells: { ask: HEARTBEATS, resume: OPENAI, stop: OPENAI, tools: OPENAI, reasoning: OPENAI },
  },
  {
    name: '`@langchain/openai`',
    version: '1',
    page: 'clients/langchain.md',
    cells: { ask: HEARTBEATS, stop: LANGCHAIN, tools: LANGCHAIN },
  },
  {
    name: '`@llamaindex/openai`',
    version: '0.4',
    page: 'clients/llamaindex.md',
    cells: { ask: HEARTBEATS, tools: packages('LlamaIndex: tools') },
  },
  {
    name: '`ai` with `@ai-sdk/openai-compatible`',
    version: '6',
    page: 'sdks.md#openai',
    cells: { ask: HEARTBEATS, stop: AI, tools: AI, reasoning: AI },
  },
  {
    name: '`client.responses` of `openai`',
    version: '6',
    page: 'responses.md',
    cells: {
      ask: responses('the openai SDK parses a structured answer'),
      resume: responses('a background answer that is cut anywhere continues, both ways of the SDK'),
      stop: responses('a background answer is cancelled'),
      tools: responses('the openai SDK runs tools over two turns'),
      reasoning: { file: 'responses/events.test.ts', title: 'the SDK makes the last response of the events before it' },
    },
  },
  {
    name: '`ai` with `@ai-sdk/openai`',
    version: '6',
    page: 'responses.md',
    cells: {
      ask: responses('the AI SDK generates an object and runs a tool'),
      tools: responses('the AI SDK generates an object and runs a tool'),
    },
  },
  {
    name: '`useChat` of the AI SDK',
    version: '5.0.92',
    page: 'clients/ai-sdk.md',
    cells: {
      ask: { file: 'clients/ai.test.ts', title: 'DefaultChatTransport reads an answer to its end' },
      resume: { file: 'clients/ai.test.ts', title: 'connections that are cut after any byte' },
      stop: { file: 'clients/ai.test.ts', title: 'Stop ends the call' },
      tools: { file: 'clients/ai.test.ts', title: 'a reload after a tool has run' },
      reasoning: { file: 'sdk/ai.test.ts', title: 'useChat: reasoning, text and a tool call become one message' },
    },
  },
  {
    name: '`useChat` of TanStack AI',
    version: '0.27',
    page: 'clients/tanstack-ai.md',
    cells: {
      ask: agui('tanstack', CUT_RUN),
      resume: agui('tanstack', CUT_RUN),
      stop: aguiPage('tanstack', STOP),
      tools: agui('tanstack', 'a tool of the page runs, and the model gets its result'),
      reasoning: agui('tanstack', CUT_RUN),
    },
  },
  {
    name: 'CopilotKit',
    version: '1.74',
    page: 'clients/copilotkit.md',
    cells: {
      ask: agui('copilotkit', CUT_RUN),
      resume: agui('copilotkit', CUT_RUN),
      stop: aguiPage('copilotkit', STOP),
      tools: agui('copilotkit', 'a tool of the page runs, and the model gets its result and the context'),
      reasoning: agui('copilotkit', CUT_RUN),
    },
  },
  {
    name: '`HttpAgent` of AG-UI',
    version: '0.0.55',
    page: 'clients/ag-ui.md',
    cells: {
      ask: agui('agui', CUT_RUN),
      resume: agui('agui', CUT_RUN),
      stop: aguiPage('agui', STOP),
      tools: { file: 'agui/events.test.ts', title: 'events pass the schemas and the verifier of AG-UI' },
      reasoning: agui('agui', CUT_RUN),
    },
  },
  {
    name: "Sluice's own client",
    version: 'all',
    page: 'clients/sluice-client.md',
    cells: {
      ask: { file: 'client/browser.test.ts', title: 'the page of the documents answers' },
      resume: { file: 'client/browser.test.ts', title: 'cuts after any number of bytes lose and repeat nothing' },
      stop: { file: 'client/client.test.ts', title: 'stop ends the call, and nothing is read after it' },
      reasoning: { file: 'client/client.test.ts', title: 'options and conversations reach the service' },
    },
  },
  {
    name: "`useChat` with the transport of Sluice's client",
    version: '5.0.92',
    page: 'clients/sluice-client.md#usechat',
    cells: {
      ask: TRANSPORT,
      resume: { file: 'client/ai.test.ts', title: 'cuts after any number of bytes, also of the first response' },
      stop: { file: 'client/ai.test.ts', title: 'aborting ends the call, also before the answer has started' },
      tools: TRANSPORT,
      reasoning: TRANSPORT,
    },
  },
];

/** Returns the table as docs/clients.md shows it. */
export function renderTable(): string {
  const head = ['client', 'from version', ...COLUMNS];
  const rows = CLIENTS.map(({ name, version, page, cells }) => [
    `[${name}](${page})`,
    version,
    ...COLUMNS.map((column) => {
      const evidence = cells[column];
      return evidence === undefined ? '–' : `[yes](../test/${evidence.file})`;
    }),
  ]);
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
