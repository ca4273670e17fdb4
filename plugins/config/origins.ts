/** Checks origins that CORS allows. They are compared with what browsers send, so another spelling would never match. */

/** Returns the problems of the setting. Takes any value: another check reports what is no list of texts. */
export function originProblems(corsOrigins: unknown): string[] {
  const origins = Array.isArray(corsOrigins) ? corsOrigins : [];
  return origins.flatMap((origin) => {
    const problem = typeof origin === 'string' ? originProblem(origin) : undefined;
    return problem === undefined ? [] : [`CORS_ORIGINS: ${problem}`];
  });
}

/** Returns what is wrong with an origin, with the right form where there is one; undefined for a good one. */
function originProblem(origin: string): string | undefined {
  if (origin === '*') return undefined;
  if (origin === 'null') return '`null` cannot be listed, because every sandboxed page has this origin';
  if (origin.includes('*')) return 'wildcards are not supported; list each origin';
  const [, scheme = '', host = '', rest = ''] = /^([a-z][a-z0-9+.-]*):\/\/([^\s/?#]+)(.*)$/is.exec(origin) ?? [];
  if (host === '' || host.includes('@'))
    return 'must be <scheme>://<host>, for example https://app.example or tauri://localhost';
  const form = standardForm(scheme.toLowerCase(), host);
  if (form === undefined) return 'has a host or a port that is not valid';
  if (origin === form) return undefined;
  return rest === '' ? `write ${form}, as browsers send it` : `write ${form}, without a path`;
}

/** Returns the origin as browsers send it. Apps have schemes of their own: `app://obsidian.md`, `capacitor://localhost`. */
function standardForm(scheme: string, host: string): string | undefined {
  const origin = `${scheme}://${host.toLowerCase()}`;
  if (scheme !== 'http' && scheme !== 'https') return origin;
  return URL.canParse(origin) ? new URL(origin).origin : undefined;
}
