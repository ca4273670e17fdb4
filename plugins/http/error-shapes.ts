/** The two forms of an error's body: ours, and OpenAI's for clients that expect it. */

export interface PublicError {
  readonly status: number;
  readonly code: string;
  readonly message: string;
}

/** What every error answer looks like. */
export interface ErrorEnvelope {
  readonly error: { readonly code: string; readonly message: string; readonly requestId: string };
}

export function envelope({ code, message }: PublicError, requestId: string): ErrorEnvelope {
  return { error: { code, message, requestId } };
}

export interface OpenAIError {
  readonly message: string;
  readonly type: string;
  readonly param: null;
  readonly code: string;
}

/** As the official SDKs read it, in a body and in a stream alike. */
export function openAIError({ status, code, message }: PublicError): { readonly error: OpenAIError } {
  return { error: { message, type: typeOf(status), param: null, code } };
}

function typeOf(status: number): string {
  if (status === 401) return 'authentication_error';
  if (status === 403) return 'permission_error';
  if (status === 429) return 'rate_limit_error';
  return status < 500 ? 'invalid_request_error' : 'server_error';
}

/** Refusals that pass by themselves. The SDKs repeat 409, 429 and 5xx unless they are told not to. */
export function shouldRetry({ code }: PublicError): boolean {
  return code === 'rate_limited' || code === 'overloaded';
}
