import type { Question } from '../../plugins/streams/api.ts';
import type { InputItem, InputPart } from './schema.ts';

/** Converts the content of items. */

type Message = Question['messages'][number];
type UserContent = Exclude<Extract<Message, { role: 'user' }>['content'], string>[number];
type Invalid = (message: string, param?: string) => Error;

/** A longer URL is not of the web, and some providers repeat it in their errors. */
const HTTPS_URL = /^https:\/\/[^\s]{1,2040}$/;
const IMAGE_DATA = /^data:image\/[\w.+-]+[;,]/;
const PDF_DATA = /^data:application\/pdf[;,]/;
const TEXT_TYPES: ReadonlySet<string> = new Set(['input_text', 'output_text', 'text']);

/** @throws the error that `invalid` returns, for a part that no prompt can hold */
export function userContent(content: InputItem['content'], at: string, invalid: Invalid): string | UserContent[] {
  if (typeof content === 'string') return content;
  if (!content?.length) throw invalid(`${at}.content must be a text or a list of parts.`, `${at}.content`);
  return content.map((part, i) => {
    const place = `${at}.content[${i}]`;
    if (TEXT_TYPES.has(part.type) && part.text !== undefined) return { type: 'text', text: part.text };
    if (part.type === 'input_image') return imageContent(part, place, invalid);
    if (part.type === 'input_file') return fileContent(part, place, invalid);
    throw invalid(`${place} must be input_text, input_image or input_file.`, place);
  });
}

/**
 * Returns the text of a message that is not of the user, or of the output of a call.
 * @param separator stands between two parts
 * @throws the error that `invalid` returns, for a part that is not text
 */
export function textOf(
  content: InputItem['content'],
  at: string,
  separator: string,
  invalid: Invalid,
  field = 'content',
): string {
  if (typeof content === 'string') return content;
  if (!content) throw invalid(`${at}.${field} must be a text or a list of parts.`, `${at}.${field}`);
  const texts = content.map(({ type, text, refusal }, i) => {
    if (TEXT_TYPES.has(type) && text !== undefined) return text;
    if (type === 'refusal' && refusal !== undefined) return refusal;
    const place = `${at}.${field}[${i}]`;
    throw invalid(`${place} must be text; only messages of the user may have images and files.`, place);
  });
  return texts.join(separator);
}

function imageContent({ image_url: url, detail }: InputPart, place: string, invalid: Invalid): UserContent {
  if (typeof url !== 'string' || !(HTTPS_URL.test(url) || IMAGE_DATA.test(url))) {
    const param = `${place}.image_url`;
    throw invalid(`${param} must be an https: URL of at most 2,048 characters, or a data:image/ URL.`, param);
  }
  return { type: 'image', url, ...(detail && { detail }) };
}

function fileContent({ file_data: data, file_url: link, filename }: InputPart, place: string, invalid: Invalid) {
  const url = data ?? link;
  const isValid = data ? PDF_DATA.test(data) : HTTPS_URL.test(link ?? '');
  if (!url || !isValid) {
    const param = `${place}.${data ? 'file_data' : 'file_url'}`;
    throw invalid(`${place} must have a PDF: file_data with a data: URL, or file_url with an https: URL.`, param);
  }
  return { type: 'file' as const, url, mimeType: 'application/pdf', ...(filename && { filename }) };
}
