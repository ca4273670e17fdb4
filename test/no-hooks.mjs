import module, { syncBuiltinESMExports } from 'node:module';

/**
 * Turns off the module hooks that tap registers in every test process, for coverage and mocks. Neither is used
 * here, and on Node 20 the hooks nearly double the time a test file takes to load.
 */
module.register = () => {};
if (module.registerHooks) module.registerHooks = () => ({ deregister() {} });
syncBuiltinESMExports();
