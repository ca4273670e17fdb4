import { marked } from './vendor/marked.js';
import DOMPurify from './vendor/purify.js';

/**
 * Renders a model's text as harmless HTML: without scripts, styles and forms, and without images, whose
 * URLs could send the conversation to another site.
 */

const SAFE = {
  USE_PROFILES: { html: true },
  FORBID_TAGS: ['img', 'picture', 'video', 'audio', 'style', 'form', 'input', 'button', 'textarea', 'select', 'iframe'],
  FORBID_ATTR: ['style', 'class', 'id'],
};

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  // Makes wide code scrollable by keyboard.
  if (node.nodeName === 'PRE') node.setAttribute('tabindex', '0');
  if (node.nodeName !== 'A') return;
  node.setAttribute('target', '_blank');
  node.setAttribute('rel', 'noopener noreferrer nofollow');
});

/** Replaces the content of the element by the rendered text. */
export function render(element, text) {
  element.innerHTML = DOMPurify.sanitize(marked.parse(text, { async: false, breaks: true }), SAFE);
}
