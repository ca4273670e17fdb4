import type { FastifyBaseLogger } from 'fastify';
import type { Clock } from '../clock.ts';

/**
 * Credentials that can end while requests that came with them are in progress: a key is removed, replaced or expires,
 * or the tokens of an issuer are no longer accepted.
 */

/** A configured key, or the issuer of a token. Requests with it keep it, and learn from it when they must end. */
export interface Credential {
  /** Tells this credential from a later one of the same owner. Reveals nothing about the key. */
  readonly mark: string;
  /** True once the credential is no longer accepted. */
  readonly isRevoked: boolean;
  /**
   * Calls the listener, a function of its own for each call, when the credential is revoked: once, and immediately if that
   * has happened. The returned function removes the listener.
   */
  onRevoked(listener: () => void): () => void;
}

/** A credential as the configuration describes it. */
export interface CredentialSettings {
  /** Tells credentials apart: one with the same id is the same credential after a reload. */
  readonly id: string;
  readonly mark: string;
  /** Name for the log. */
  readonly name: string;
  /** Milliseconds since 1970 at which the credential expires; infinity for never. */
  readonly expires: number;
}

export interface Credentials {
  /** Returns the credentials with these settings: known ones as they are, and new ones. Changes nothing yet. */
  prepare(settings: readonly CredentialSettings[]): PreparedCredentials;
  close(): void;
}

export interface PreparedCredentials {
  /** Returns the prepared credential with this id. */
  get(id: string): Credential;
  /** Accepts the prepared credentials from now on, and revokes all others. */
  apply(): void;
}

export interface CredentialsOptions {
  readonly clock: Clock;
  /** Milliseconds since 1970. */
  now(): number;
  readonly log: Pick<FastifyBaseLogger, 'info' | 'error'>;
}

/** Time in milliseconds between two looks for expired credentials. A wall clock may jump, so no timer waits for the expiry. */
export const EXPIRY_CHECK_MS = 1_000;

class RevocableCredential implements Credential {
  settings: CredentialSettings;
  isRemoved = false;
  readonly #now: () => number;
  readonly #onUse: () => void;
  readonly #listeners = new Set<() => void>();

  constructor(settings: CredentialSettings, now: () => number, onUse: () => void) {
    this.settings = settings;
    this.#now = now;
    this.#onUse = onUse;
  }

  get mark(): string {
    return this.settings.mark;
  }
  get isRevoked(): boolean {
    return this.isRemoved || this.settings.expires <= this.#now();
  }
  /** True if somebody waits for the revocation. */
  get isInUse(): boolean {
    return this.#listeners.size > 0;
  }

  onRevoked(listener: () => void): () => void {
    if (this.isRevoked) {
      listener();
      return () => {};
    }
    this.#listeners.add(listener);
    this.#onUse();
    return () => this.#listeners.delete(listener);
  }

  /** Calls all listeners, and removes them. A listener that throws does not keep others from being called. */
  notify(onError: (error: unknown) => void): void {
    const listeners = [...this.#listeners];
    this.#listeners.clear();
    for (const listener of listeners) {
      try {
        listener();
      } catch (error) {
        onError(error);
      }
    }
  }

  /** A credential is part of an identity, and must not be written with it, for example into a ticket. */
  toJSON(): undefined {
    return undefined;
  }
}

/** Creates the credentials of a service. One timer serves all of them, while one that can expire is in use. */
export function createCredentials({ clock, now, log }: CredentialsOptions): Credentials {
  let accepted = new Map<string, RevocableCredential>();
  let cancelCheck: (() => void) | undefined;
  let isClosed = false;

  const canExpireInUse = ({ isInUse, settings }: RevocableCredential) => isInUse && Number.isFinite(settings.expires);

  const revoke = (credential: RevocableCredential) => {
    if (!credential.isInUse) return;
    log.info({ owner: credential.settings.name }, 'credential revoked; its open responses and running answers end');
    credential.notify((error) => log.error({ err: error }, 'a listener failed when a credential was revoked'));
  };

  const check = () => {
    cancelCheck = undefined;
    for (const credential of accepted.values()) if (credential.isRevoked) revoke(credential);
    schedule();
  };

  const schedule = () => {
    if (isClosed || ![...accepted.values()].some(canExpireInUse)) return;
    cancelCheck = clock.after(EXPIRY_CHECK_MS, check);
  };

  /** Called for each listener, so it looks at one credential only. */
  const onUse = (credential: RevocableCredential) => {
    if (isClosed || cancelCheck !== undefined || !canExpireInUse(credential)) return;
    cancelCheck = clock.after(EXPIRY_CHECK_MS, check);
  };

  const create = (settings: CredentialSettings): RevocableCredential => {
    const credential: RevocableCredential = new RevocableCredential(settings, now, () => onUse(credential));
    return credential;
  };

  return {
    prepare(list) {
      const next = new Map(list.map((settings) => [settings.id, accepted.get(settings.id) ?? create(settings)]));
      return {
        get: (id) => next.get(id) as Credential,
        apply() {
          const previous = accepted;
          accepted = next;
          for (const settings of list) (next.get(settings.id) as RevocableCredential).settings = settings;
          for (const [id, credential] of previous) {
            if (next.has(id)) continue;
            credential.isRemoved = true;
            revoke(credential);
          }
          // An expiry may have been set, moved or removed.
          cancelCheck?.();
          check();
        },
      };
    },
    close() {
      isClosed = true;
      cancelCheck?.();
    },
  };
}
