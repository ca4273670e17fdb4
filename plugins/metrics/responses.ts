import { Counter, Gauge, type Registry } from 'prom-client';
import { InterEventHistogram } from './inter-event-histogram.ts';

/** Metrics of requests and responses. */
export function responseMetrics(registers: Registry[]) {
  return {
    requests: new Counter({
      name: 'sluice_requests_total',
      help: 'Requests answered completely, by route and key: the name of a key, _token (any token), _anonymous (no keys are configured), _none (nobody was identified), _unknown (a key that is not configured here). Streams whose client disconnected count in sluice_responses_aborted_total',
      labelNames: ['method', 'route', 'status', 'key'] as const,
      registers,
    }),
    connections: new Gauge({ name: 'sluice_connections', help: 'Connections of clients open now', registers }),
    connectionsClosed: new Counter({
      name: 'sluice_connections_closed_total',
      help: 'Connections closed because there were too many, by state: idle (no request), receiving (incomplete request), new (all others were being answered)',
      labelNames: ['state'] as const,
      registers,
    }),
    readers: new Gauge({ name: 'sluice_readers', help: 'Readers of streams in this process now', registers }),
    responsesOpen: new Gauge({ name: 'sluice_responses_open', help: 'SSE responses open now', registers }),
    responsesAborted: new Counter({
      name: 'sluice_responses_aborted_total',
      help: 'SSE responses whose client disconnected before the end',
      registers,
    }),
    responsesStalled: new Counter({
      name: 'sluice_responses_stalled_total',
      help: 'Responses closed because the client read nothing',
      registers,
    }),
    responsesRotated: new Counter({
      name: 'sluice_responses_rotated_total',
      help: 'Responses ended by streams.maxConnectionMs; their clients reconnect',
      registers,
    }),
    resumes: new Counter({
      name: 'sluice_resumes_total',
      help: 'Resume requests, by outcome: hit, ended (nothing left), unknown (stream or position gone), unavailable',
      labelNames: ['outcome'] as const,
      registers,
    }),
    interEventSeconds: new InterEventHistogram(
      'sluice_inter_event_seconds',
      'Seconds between two events of an answer at one reader, while the client keeps up',
      registers,
    ),
    eventsOut: new Counter({ name: 'sluice_events_out_total', help: 'SSE events and comments written', registers }),
    bytesOut: new Counter({
      name: 'sluice_bytes_out_total',
      help: 'Bytes of SSE responses, counted when a response closes',
      registers,
    }),
  };
}
