import AjvCompiler from '@fastify/ajv-compiler';

type BuildValidator = ReturnType<typeof AjvCompiler>;
type Validator = ReturnType<ReturnType<BuildValidator>>;

export interface LazyValidators {
  /** The builder for Fastify, `schemaController.compilersFactory.buildValidator`. */
  readonly build: BuildValidator;
  /** Compiles the schema of one route that has had no request, and so loads the compiler. */
  compileOne(): void;
}

/**
 * Creates validators that compile the schema of a route at its first request. A quarter of a start went into compiling
 * them all. Schemas must name headers in lower case: Fastify changes the names only for a builder of its own.
 */
export function createLazyValidators(): LazyValidators {
  const buildEager = AjvCompiler();
  const pending = new Set<() => void>();
  return {
    build(externalSchemas, options) {
      let compile: ReturnType<BuildValidator> | undefined;
      return (route) => {
        let validate: Validator | undefined;
        const compileRoute = (): Validator => {
          pending.delete(compileRoute);
          compile ??= buildEager(externalSchemas, options);
          validate ??= compile(route);
          return validate;
        };
        pending.add(compileRoute);
        const lazy = (data: unknown) => {
          validate ??= compileRoute();
          const result = validate(data);
          lazy.errors = validate.errors ?? null;
          return result;
        };
        lazy.errors = null as Validator['errors'];
        // Fastify calls it and reads `errors`, nothing else.
        return lazy as Validator;
      };
    },
    compileOne() {
      const [compileRoute] = pending;
      try {
        compileRoute?.();
      } catch {
        // The first request of the route reports it.
      }
    },
  };
}
