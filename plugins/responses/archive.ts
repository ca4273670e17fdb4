import type { AnswerArchive } from '../streams/answer-archive.ts';
import type { StreamInfo, Terminal } from '../streams/types.ts';
import type { Webhooks } from '../webhooks/index.ts';
import { statusOf } from './status.ts';
import type { ResponseStore } from './types.ts';

export interface ArchiveOptions {
  readonly ttlMs: number;
  readonly store: Pick<ResponseStore, 'keepAnswer' | 'running'>;
  /** Undefined if nobody is told of the end of an answer. */
  readonly webhooks: Webhooks | undefined;
  readonly setUnwritten: AnswerArchive['setUnwritten'];
}

/** Connects the ends of streams with the store of responses and with webhooks. */
export function createArchive({ ttlMs, store, webhooks, setUnwritten }: ArchiveOptions): AnswerArchive {
  const isAnnounced = ({ stored }: StreamInfo) => stored === 'background';
  const eventOf = ({ id }: StreamInfo, terminal: Terminal, endedAt: number) =>
    webhooks?.encode({ id, status: statusOf(terminal), endedAt });

  return {
    ttlMs,
    setUnwritten,
    onCreated(info) {
      store.running?.add(info.id);
      if (isAnnounced(info)) webhooks?.expect(info.id);
    },
    keep(info, parts, terminal) {
      const { id, owner } = info;
      const endedAt = Date.now();
      const isKept = store.keepAnswer?.(id, owner, { parts, terminal, endedAt, status: statusOf(terminal) });
      if (isKept && isAnnounced(info)) webhooks?.add(id, eventOf(info, terminal, endedAt));
    },
    announce(info, terminal) {
      if (webhooks === undefined || !isAnnounced(info)) return undefined;
      return {
        text: webhooks.encode({ id: info.id, status: statusOf(terminal), endedAt: Date.now() }),
        ttlMs: webhooks.keepMs,
      };
    },
    onAnnounced: ({ id }) => webhooks?.add(id),
    onTakenOver: ({ id }) => store.running?.adopt(id),
    onCompared: ({ id }) => store.running?.write(id),
    onReleased: ({ id }) => store.running?.delete(id),
  };
}
