import underPressure from '@fastify/under-pressure';
import fp from 'fastify-plugin';

/** What the delay is the mean of: shorter, and a moment in which many come at once counts as overload. */
const SAMPLE_MS = 1_000;

/**
 * `fastify.isUnderPressure()`: whether the event loop is so late that one more answer would slow all
 * others. A core that is merely busy keeps its pace, since it merges what has piled up.
 */
export default fp(
  async (fastify) => {
    await fastify.register(underPressure, {
      maxEventLoopDelay: fastify.config.limits.eventLoopDelayMs,
      sampleInterval: SAMPLE_MS,
      // New questions ask for themselves; readers that come back are never turned away for it.
      pressureHandler: () => {},
    });
  },
  { name: 'pressure', dependencies: ['config'] },
);
