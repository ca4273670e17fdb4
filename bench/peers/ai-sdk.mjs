import { createServer } from 'node:http';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { streamText } from 'ai';

/** `streamText` of the AI SDK on Node's http. Answers like `GET /ask/stream` of Sluice. */

const provider = createOpenAICompatible({ name: 'bench', baseURL: process.env.UPSTREAM, apiKey: 'bench' });

createServer(async (request, response) => {
  const prompt = new URL(request.url, 'http://localhost').searchParams.get('question');
  if (prompt === null) return void response.end();
  const aborted = new AbortController();
  response.on('close', () => aborted.abort());
  const { textStream } = streamText({
    model: provider('bench'),
    prompt,
    abortSignal: aborted.signal,
    onError({ error }) {
      console.error(error);
      response.destroy();
    },
  });
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for await (const content of textStream) {
    response.write(`data: ${JSON.stringify({ type: 'delta', content })}\n\n`);
  }
  response.end('data: {"type":"end"}\n\n');
}).listen(Number(process.env.PORT), '127.0.0.1');
