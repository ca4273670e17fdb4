/** Adds buttons that copy an answer and its blocks of code. */

const SHOWN_MS = 1_500;

/** @returns {HTMLButtonElement} a button that copies the text that `read` returns */
export function copyButton(label, read) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'quiet copy';
  button.textContent = 'Copy';
  button.setAttribute('aria-label', label);
  button.addEventListener('click', async () => {
    const isCopied = await copy(read());
    button.textContent = isCopied ? 'Copied' : 'Not copied';
    button.setAttribute('aria-label', isCopied ? 'Copied' : 'The browser did not allow to copy');
    setTimeout(() => {
      button.textContent = 'Copy';
      button.setAttribute('aria-label', label);
    }, SHOWN_MS);
  });
  return button;
}

/** Adds a button to each block of code of a rendered answer. */
export function addCodeButtons(element) {
  for (const pre of element.querySelectorAll('pre')) {
    const block = document.createElement('div');
    block.className = 'code';
    pre.replaceWith(block);
    block.append(
      pre,
      copyButton('Copy code', () => pre.textContent),
    );
  }
}

/** Copies a text. Outside of HTTPS and localhost, pages have no clipboard, only the command of old. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement('textarea');
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand('copy');
    area.remove();
    return isCopied;
  }
}
