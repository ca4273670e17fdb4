import { marked } from './vendor/marked.js';
import DOMPurify from './vendor/purify.js';

/**
 * A model's text as HTML that can do nothing: no script, no style, no form, and no image, whose URL
 * could carry the conversation to somebody else.
 */

const SAFE = {
  USE_PROFILES: { html: true },
  FORBID_TAGS: ['img', 'picture', 'video', 'audio', 'style', 'form', 'input', 'button', 'textarea', 'select', 'iframe'],
  FORBID_ATTR: ['style', 'class', 'id'],
};

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  // Wide code is scrolled by keys, too.
  if (node.nodeName === 'PRE') node.setAttribute('tabindex', '0');
  if (node.nodeName !== 'A') return;
  node.setAttribute('target', '_blank');
  node.setAttribute('rel', 'noopener noreferrer nofollow');
});

/** Puts the text into the element. */
export function render(element, text) {
  element.innerHTML = DOMPurify.sanitize(marked.parse(text, { async: false, breaks: true }), SAFE);
}
