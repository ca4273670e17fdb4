import { readdirSync, readFileSync } from 'node:fs';
import ts from 'typescript';

/** Returns every regular expression literal of the product, as it stands in the sources. */
export function productExpressions(): { file: string; source: string }[] {
  const files = ['app.ts', 'server.ts'];
  for (const folder of ['plugins', 'routes', 'providers']) {
    for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
      if (name.endsWith('.ts')) files.push(`${folder}/${name}`);
    }
  }
  return files.flatMap((file) => {
    const found: { file: string; source: string }[] = [];
    const visit = (node: ts.Node): void => {
      if (ts.isRegularExpressionLiteral(node)) found.push({ file, source: node.text });
      else if (ts.isNewExpression(node) && node.expression.getText() === 'RegExp') {
        found.push({ file, source: node.getText() });
      }
      ts.forEachChild(node, visit);
    };
    visit(ts.createSourceFile(file, readFileSync(file, 'utf8'), ts.ScriptTarget.Latest, true));
    return found;
  });
}
