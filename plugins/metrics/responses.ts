import { Counter, Gauge, type Registry } from 'prom-client';
import { InterEventHistogram } from './inter-event-histogram.ts';

/** What clients get. */
export function responseMetrics(registers: Registry[]) {
  return {
    requests: new Counter({
      name: 'sluice_requests_total',
      help: 'Requests answered to their end, by route; those that were cut are sluice_responses_aborted_total',
      labelNames: ['method', 'route', 'status'] as const,
      registers,
    }),
    readers: new Gauge({ name: 'sluice_readers', help: 'Readers of streams in this process now', registers }),
    responsesOpen: new Gauge({ name: 'sluice_responses_open', help: 'SSE responses open now', registers }),
    responsesAborted: new Counter({
      name: 'sluice_responses_aborted_total',
      help: 'SSE responses whose client left before the end',
      registers,
    }),
    responsesStalled: new Counter({
      name: 'sluice_responses_stalled_total',
      help: 'SSE responses cut off because their client took nothing',
      registers,
    }),
    resumes: new Counter({
      name: 'sluice_resumes_total',
      help: 'Reconnects by result: hit, unknown (stream or position gone), ended (nothing left), unavailable',
      labelNames: ['outcome'] as const,
      registers,
    }),
    interEventSeconds: new InterEventHistogram(
      'sluice_inter_event_seconds',
      'Between two events of an answer at one reader, while the client takes them',
      registers,
    ),
    eventsOut: new Counter({ name: 'sluice_events_out_total', help: 'SSE events and comments written', registers }),
    bytesOut: new Counter({
      name: 'sluice_bytes_out_total',
      help: 'Bytes of SSE responses handed to the kernel, counted when a response closes',
      registers,
    }),
  };
}
