/** Code blocks of a document, so that a test runs what a reader copies. */

/** Returns the code blocks in a language, without their indentation. */
export function codeBlocks(markdown: string, language: string): string[] {
  const pattern = new RegExp(`^( *)\`\`\`${language}\\n(.*?)^\\1\`\`\`$`, 'gms');
  return [...markdown.matchAll(pattern)].map(([, indent = '', text = '']) =>
    text.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
  );
}

/** Returns the only code block that contains `mark`. */
export function codeBlock(markdown: string, language: string, mark = ''): string {
  const [only, ...others] = codeBlocks(markdown, language).filter((block) => block.includes(mark));
  if (only === undefined || others.length > 0) throw new Error(`not one ${language} block with ${mark}`);
  return only;
}
