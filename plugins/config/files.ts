import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';

/** Reads files of the configuration, and finds out later whether their contents have changed. */

/** Digest of each file by path, or the code of the error if it cannot be read. */
export type FileDigests = Readonly<Record<string, string>>;

/** Size of the largest file that is read. A file of prices has about four million bytes. */
export const MAX_FILE_BYTES = 16 * 2 ** 20;

/** Code of a file that is larger, as systems call it. */
export const TOO_LARGE = 'EFBIG';

export interface FileReader {
  /**
   * Returns the text of a file.
   * @throws the error of the system, or one with the code `TOO_LARGE`
   */
  read(path: string): string;
  /** Digests of all files that `read` was called for. */
  readonly digests: Record<string, string>;
}

/** Creates a reader that remembers a digest of each content, which shows a later change. */
export function createFileReader(): FileReader {
  const digests: Record<string, string> = {};
  return {
    digests,
    read(path) {
      try {
        if (statSync(path).size > MAX_FILE_BYTES) throw Object.assign(new Error('too large'), { code: TOO_LARGE });
        const content = readFileSync(path);
        digests[path] = digest(content);
        return content.toString();
      } catch (error) {
        digests[path] = codeOf(error);
        throw error;
      }
    },
  };
}

/** A file that cannot be opened now, although it may be unchanged: no descriptor, memory or thread is left. */
const TEMPORARY = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN', 'EINTR', 'EBUSY', 'EIO', 'ESTALE', 'ETIMEDOUT']);

/** Milliseconds after which a file system shows a second change of a file in its times. */
const TIMES_SETTLE_MS = 5_000;

/**
 * Creates a function that reads files again and returns their digests, or undefined if a file cannot be read at
 * the moment. A file is opened only if its times, size or inode have changed, so that a look needs no descriptor.
 * @param now milliseconds since 1970, as file systems count them
 */
export function createFileWatch(
  now: () => number = Date.now,
): (known: FileDigests) => Promise<FileDigests | undefined> {
  const seen = new Map<string, { state: string; digest: string }>();

  const currentDigest = async (path: string, known: string): Promise<string> => {
    const stats = await stat(path, { bigint: true });
    // A pipe or a terminal has been read, and has no content to compare.
    if (!stats.isFile() && !stats.isDirectory()) return known;
    if (stats.size > MAX_FILE_BYTES) return TOO_LARGE;
    const state = [stats.dev, stats.ino, stats.size, stats.mtimeNs, stats.ctimeNs].join(' ');
    const last = seen.get(path);
    if (last?.state === state) return last.digest;
    const found = digest(await readFile(path));
    // Two writes within one tick of the file system have the same times.
    if (now() - Number(stats.ctimeMs) > TIMES_SETTLE_MS) seen.set(path, { state, digest: found });
    else seen.delete(path);
    return found;
  };

  return async (known) => {
    const current: Record<string, string> = {};
    for (const [path, digest] of Object.entries(known)) {
      try {
        current[path] = await currentDigest(path, digest);
      } catch (error) {
        const code = codeOf(error);
        if (TEMPORARY.has(code)) return undefined;
        current[path] = code;
      }
    }
    return current;
  };
}

function digest(content: Buffer): string {
  return createHash('sha256').update(content).digest('base64url');
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'unknown';
}
