import AjvCompiler from '@fastify/ajv-compiler';

type BuildValidator = ReturnType<typeof AjvCompiler>;
type Validator = ReturnType<ReturnType<BuildValidator>>;

/**
 * Returns a builder of validators for Fastify (`schemaController.compilersFactory.buildValidator`) that compiles the schema
 * of a route at its first request. A quarter of a start went into compiling them all. Schemas must name headers in
 * lower case: Fastify changes the names only for a builder of its own.
 */
export function createLazyValidators(): BuildValidator {
  const build = AjvCompiler();
  return (externalSchemas, options) => {
    let compile: ReturnType<BuildValidator> | undefined;
    return (route) => {
      let validate: Validator | undefined;
      const lazy = (data: unknown) => {
        compile ??= build(externalSchemas, options);
        validate ??= compile(route);
        const result = validate(data);
        lazy.errors = validate.errors ?? null;
        return result;
      };
      lazy.errors = null as Validator['errors'];
      // Fastify calls it and reads `errors`, nothing else.
      return lazy as Validator;
    };
  };
}
