import { performance } from 'node:perf_hooks';
import { collectDefaultMetrics, Gauge, type Metric, Registry } from 'prom-client';

let registry: Registry | undefined;

/**
 * Returns the metrics of the process: CPU, memory, garbage collection, handles, delay and utilization of the
 * event loop. Created once per process, because their observers cannot be removed.
 */
export function processMetrics(): Registry {
  if (registry !== undefined) return registry;
  registry = new Registry();
  collectDefaultMetrics({ register: registry });
  for (const names of READ_TOGETHER) leaveOutUnreadable(registry, names);
  let before = performance.eventLoopUtilization();
  new Gauge({
    name: 'nodejs_eventloop_utilization',
    help: 'Share of time in which the event loop was busy since the last scrape, 0 to 1',
    registers: [registry],
    collect() {
      const now = performance.eventLoopUtilization();
      this.set(performance.eventLoopUtilization(now, before).utilization);
      before = now;
    },
  });
  return registry;
}

/** Metrics that prom-client reads from files or from the system. The first of each group sets all of them. */
const READ_TOGETHER = [
  ['process_open_fds'],
  ['process_resident_memory_bytes', 'process_virtual_memory_bytes', 'process_heap_bytes'],
  ['nodejs_heap_size_total_bytes', 'nodejs_heap_size_used_bytes', 'nodejs_external_memory_bytes'],
];

/**
 * Removes the values of metrics before they are read. prom-client ignores a failed read, for example because no
 * descriptor is free: the metric would keep its last value, or report 0.
 */
function leaveOutUnreadable(registry: Registry, names: readonly string[]): void {
  const metrics = names.map((name) => registry.getSingleMetric(name)).filter((metric) => metric !== undefined);
  const [first] = metrics as (Metric & { collect?(): void })[];
  const collect = first?.collect;
  if (first === undefined || collect === undefined) return;
  first.collect = () => {
    for (const metric of metrics) metric.remove();
    collect.call(first);
  };
}
