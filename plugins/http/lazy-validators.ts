import AjvCompiler from '@fastify/ajv-compiler';

type BuildValidator = ReturnType<typeof AjvCompiler>;
type Validator = ReturnType<ReturnType<BuildValidator>>;

export interface LazyValidators {
  /** The builder for Fastify, `schemaController.compilersFactory.buildValidator`. */
  readonly build: BuildValidator;
  /** Loads the compiler, by the schema of the first route. Later calls do nothing. */
  loadCompiler(): void;
}

/**
 * Creates validators that compile the schema of a route at its first request. A quarter of a start went into compiling
 * them all. Schemas must name headers in lower case: Fastify changes the names only for a builder of its own.
 */
export function createLazyValidators(): LazyValidators {
  const buildEager = AjvCompiler();
  let compileFirst: (() => void) | undefined;
  return {
    build(externalSchemas, options) {
      let compile: ReturnType<BuildValidator> | undefined;
      return (route) => {
        let compiled: Validator | undefined;
        const compileRoute = (): Validator => {
          compile ??= buildEager(externalSchemas, options);
          compiled ??= compile(route);
          return compiled;
        };
        compileFirst ??= compileRoute;
        const lazy = (data: unknown) => {
          const validate = compileRoute();
          const result = validate(data);
          lazy.errors = validate.errors ?? null;
          return result;
        };
        lazy.errors = null as Validator['errors'];
        // Fastify calls it and reads `errors`, nothing else.
        return lazy as Validator;
      };
    },
    loadCompiler() {
      try {
        compileFirst?.();
      } catch {
        // The first request of the route reports it.
      }
    },
  };
}
