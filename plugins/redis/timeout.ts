import type { Clock } from '../clock.ts';

/** Redis cannot be used now: it is not connected, too slow, or refuses what streams need. */
export class RedisUnavailable extends Error {
  override readonly name = 'RedisUnavailable';
}

export interface TimedCall<T> {
  readonly clock: Clock;
  readonly ms: number;
  call(): Promise<T>;
  onReply(): void;
  onTimeout(): void;
  /** Returns the error to reject with. */
  onError(error: Error): Error;
}

/** Sends a command. Settles after `ms` milliseconds at the latest; a later reply is ignored. @throws RedisUnavailable */
export function sendWithTimeout<T>({ clock, ms, call, onReply, onTimeout, onError }: TimedCall<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    let isSettled = false;
    const expire = () => {
      if (isSettled) return;
      isSettled = true;
      onTimeout();
      reject(new RedisUnavailable('no reply in time'));
    };
    // Waits one more turn: after a long turn or a pause, the reply may already be in the socket.
    const cancel = clock.after(ms, () => void setImmediate(expire));
    const settle = (then: () => void) => {
      if (isSettled) return;
      isSettled = true;
      cancel();
      then();
    };
    call().then(
      (value) =>
        settle(() => {
          onReply();
          resolve(value);
        }),
      (error: Error) => settle(() => reject(onError(error))),
    );
  });
}
