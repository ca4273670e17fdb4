import type { Question } from '../../plugins/streams/api.ts';
import type { RunContentPart } from './schema.ts';

/** Converts the content of AG-UI messages. */

type Message = Question['messages'][number];
type UserContent = Exclude<Extract<Message, { role: 'user' }>['content'], string>[number];
type Source = NonNullable<RunContentPart['source']>;
type Invalid = (message: string) => Error;

/** Longest `https:` URL. A longer one is not of the web, and some providers repeat it in their errors. */
const MAX_URL_LENGTH = 2_048;
const PDF = 'application/pdf';

/** @throws the error that `invalid` returns, for a part that no prompt can hold */
export function userContent(
  content: string | readonly RunContentPart[],
  at: string,
  invalid: Invalid,
): string | UserContent[] {
  if (typeof content === 'string') return content;
  return content.map((part, i) => {
    if (part.type === 'text' && part.text !== undefined) return { type: 'text', text: part.text };
    const media = mediaContent(part);
    if (media) return media;
    const expected = 'must be text, an image, or a PDF document, with base64 data or an https: URL';
    throw invalid(`${at}.content.${i} ${expected}.`);
  });
}

/** @throws the error that `invalid` returns, for a part that is not text: only messages of users may have others */
export function textContent(
  content: string | readonly RunContentPart[] | null | undefined,
  at: string,
  invalid: Invalid,
): string {
  if (typeof content === 'string') return content;
  const texts = (content ?? []).map(({ type, text }, i) => {
    if (type === 'text' && text !== undefined) return text;
    throw invalid(`${at}.content.${i} must be text; only messages of the user may have images and documents.`);
  });
  return texts.join('\n');
}

/** Returns an image or a PDF; undefined for a part that models cannot read. */
function mediaContent(part: RunContentPart): UserContent | undefined {
  const source = part.type === 'binary' ? binarySource(part) : part.source;
  if (source === undefined) return undefined;
  const { mimeType = mimeTypeOf(source, part.type) } = source;
  const isImage = part.type === 'image' || (part.type === 'binary' && mimeType?.startsWith('image/') === true);
  if (!isImage && part.type !== 'document' && part.type !== 'binary') return undefined;
  if (isImage ? mimeType?.startsWith('image/') === false : mimeType !== PDF) return undefined;
  const url = urlOf(source, mimeType, isImage ? 'data:image/' : `data:${PDF};`);
  if (url === undefined) return undefined;
  if (isImage) return { type: 'image', url };
  const { filename = filenameOf(part) } = part;
  return { type: 'file', url, mimeType: PDF, ...(filename !== undefined && { filename }) };
}

/** Returns the source of a `binary` part, the form of media before AG-UI 0.0.46. */
function binarySource({ mimeType, data, url }: RunContentPart): Source | undefined {
  if (mimeType === undefined) return undefined;
  if (data !== undefined) return { type: 'data', value: data, mimeType };
  return url === undefined ? undefined : { type: 'url', value: url, mimeType };
}

/** Returns the media type of a URL that shows it; undefined for others. */
function mimeTypeOf({ value }: Source, partType: string): string | undefined {
  const isPdf = partType === 'document' && /^https:[^?#]+\.pdf([?#]|$)/i.test(value);
  return isPdf ? PDF : /^data:([\w.+-]+\/[\w.+-]+)[;,]/.exec(value)?.[1];
}

function urlOf({ type, value }: Source, mimeType: string | undefined, dataPrefix: string): string | undefined {
  if (value.startsWith('data:')) return value.startsWith(dataPrefix) ? value : undefined;
  if (type === 'url') return value.startsWith('https://') && value.length <= MAX_URL_LENGTH ? value : undefined;
  const isBase64 = type === 'data' && mimeType !== undefined && /^[A-Za-z0-9+/_-]+={0,2}$/.test(value);
  return isBase64 ? `data:${mimeType};base64,${value}` : undefined;
}

function filenameOf({ metadata }: RunContentPart): string | undefined {
  const { filename } = (metadata ?? {}) as { filename?: unknown };
  return typeof filename === 'string' && filename.length <= 256 ? filename : undefined;
}
