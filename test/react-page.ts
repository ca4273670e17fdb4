import ts from 'typescript';
import { withUrls } from './browser-modules.ts';

/** A page that runs `/app.js` with React, in its build for development: `StrictMode` mounts twice. */

export const REACT_PAGE = `<!doctype html><meta charset="utf-8"><div id="root"></div>
<script>globalThis.process = { env: {} };</script>
<script src="/node_modules/react/umd/react.development.js"></script>
<script src="/node_modules/react-dom/umd/react-dom.development.js"></script>
<script type="module" src="/app.js"></script>`;

/** Compiles a module with JSX for this page. */
export function compileReact(source: string): string {
  const { outputText } = ts.transpileModule(source, {
    compilerOptions: { jsx: ts.JsxEmit.React, module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ESNext },
  });
  return withUrls(outputText);
}
