import asyncHooks from 'node:async_hooks';
import module, { syncBuiltinESMExports } from 'node:module';

/**
 * Turns off what tap adds to every test process and nothing here uses:
 * - the module hooks, for coverage and mocks. On Node 20 they nearly double the time a test file takes to load.
 * - the hook that follows every promise, to find the test of an error that nobody catches. It takes a sixth of the CPU
 *   of a test. Such an error ends the process with its stack, which fails the file.
 */
module.register = () => {};
if (module.registerHooks) module.registerHooks = () => ({ deregister() {} });
asyncHooks.createHook = () => ({ enable() {}, disable() {} });
syncBuiltinESMExports();
