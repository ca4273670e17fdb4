import t from 'tap';
import { productExpressions } from './expressions.ts';
import { timeRatio } from './time-ratio.ts';

/** Every regular expression of the product takes linear time. */

/** Input of an expression: a prefix, a text that is repeated, and a suffix that makes the match fail late. */
type Worst = readonly [prefix: string, pump: string, suffix: string];

/** Worst inputs of each expression with an unbounded quantifier. A new one fails the test until it is added here. */
const WORST: Readonly<Record<string, readonly Worst[]>> = {
  '/^([A-Za-z0-9_-]+)\\.([A-Za-z0-9_-]{43})$/': [
    ['', 'a', '!'],
    ['', 'a.', ''],
  ],
  '/;\\s*charset\\s*=\\s*"?([^\\s;"]+)/i': [
    ['; ', ' ', 'x'],
    ['', '; charset ', ''],
    ['; charset=', ' ', ''],
    ['', ';', ''],
  ],
  '/^\\s+at /': [['', ' ', 'x']],
  '/^(localhost|.+\\.localhost|127(\\.\\d{1,3}){3}|::1)$/i': [
    ['', 'a', ''],
    ['', '.localhost', 'x'],
  ],
  '/[a-z0-9]+/g': [
    ['', 'a', '-'],
    ['', '-a', ''],
  ],
  '/^tool-(.+)$/': [['tool-', 'a', '\n']],
  '/^\\s*[a-z][a-z0-9+.-]{0,30}:\\/\\//i': [
    ['', ' ', '!'],
    ['', 'a', ''],
  ],
  '/^[^.]*\\.?$|\\.(localhost|local|internal|intranet|lan|home\\.arpa)\\.?$/i': [
    ['', 'a', '.a'],
    ['', '.local', 'x'],
  ],
  '/\\S+/gu': [
    ['', 'a', ' '],
    ['', ' ', ''],
  ],
  '/claude-([a-z]{2,})(?:-(\\d{1,2})(?!\\d)(?:[-.](\\d{1,2})(?!\\d))?)?/': [
    ['', 'claude-a', ''],
    ['', 'claude-', '1'],
  ],
  '/claude-v?(\\d)(?!\\d)(?:[-.](\\d{1,2})(?!\\d))?(?:-([a-z]+))?/': [
    ['', 'claude-11', ''],
    ['claude-1-', 'a', '1'],
  ],
  '/^data:([\\w.+-]+\\/[\\w.+-]+)(?:;[\\w-]+=[^;,]*)*;base64,(.*)$/s': [
    ['data:', 'a', ''],
    ['data:a/b', ';a=', ''],
    ['data:a/b', ';a=;base64', ''],
    ['data:a/b;base64', ';base64', ','],
  ],
  '/^data:([\\w.+-]+\\/[\\w.+-]+)[;,]/': [
    ['data:', 'a', ''],
    ['data:a/', 'a', '!'],
  ],
  '/^data:image\\/[\\w.+-]+[;,]/': [['data:image/', 'a', '!']],
  '/^https:[^?#]+\\.pdf([?#]|$)/i': [
    ['https:', 'a', ''],
    ['https:', '.pdf', '!'],
  ],
  '/^[A-Za-z0-9+/_-]+={0,2}$/': [
    ['', 'a', '!'],
    ['', 'a', '==='],
  ],
  '/,\\s*/': [
    ['', ',', ''],
    ['', ', ', 'x'],
    [',', ' ', 'x'],
  ],
  '/^[\\w.+-]+\\/([\\w-]+)$/': [
    ['', 'a', ''],
    ['a/', 'a', '.'],
  ],
  '/^\\n*```[a-z]*\\n/': [
    ['', '\n', ''],
    ['```', 'a', '!'],
  ],
  '/^\\n*(`{0,3}|```[a-z]*)$/': [
    ['', '\n', 'x'],
    ['```', 'a', '!'],
  ],
  '/^\\n*```\\n+/': [
    ['', '\n', ''],
    ['', '`', ''],
  ],
  '/^\\n*`{0,3}$/': [['', '\n', 'x']],
  '/^(id: ?\\S*\\n)?event: ?error\\n/': [
    ['id: ', 'a', ''],
    ['id:', 'a', '\nevent: errox'],
  ],
  '/^prompt is too long(: \\d+ tokens > \\d+ maximum)?$/i': [['prompt is too long: ', '1', '']],
  '/^The input token count (\\(\\d+\\) )?exceeds the maximum number of tokens allowed/': [
    ['The input token count (', '1', ''],
  ],
  "/^This (model|endpoint)'s maximum (context|prompt) length is \\d+/": [
    ["This model's maximum context length is ", '1', ''],
  ],
  "/^'?max_(completion_)?tokens'?( or '\\w+')? is too large: \\d+\\. ?This model's maximum/": [
    ["max_tokens or '", 'a', ''],
    ['max_tokens is too large: ', '1', ''],
  ],
  '/^The (decoder )?prompt \\(length \\d+\\) is longer than the maximum model length of \\d/': [
    ['The prompt (length ', '1', ''],
  ],
  "/^The input \\(\\d+ tokens\\) is longer than the model's context length \\(\\d/": [['The input (', '1', '']],
  '/^(request \\(\\d+ tokens\\) exceeds the available context size)\\b/': [['request (', '1', '']],
  '/^Prompt contains \\d+ tokens\\b/': [['Prompt contains ', '1', '']],
  '/^(<\\d+> )?(InternalError\\.Algo\\.InvalidParameter: )?Range of input length should be \\[\\d/': [['<', '1', '']],
  '/^\\d+(\\.\\d+)?$/': [
    ['', '1', 'x'],
    ['1.', '1', 'x'],
  ],
  '/^(\\d+(\\.\\d+)?(ms|s|m|h))+$/': [
    ['', '1', ''],
    ['', '1s', 'x'],
    ['', '1m', 's.'],
  ],
  '/^data: ?(\\{.*\\})\\s*$/m': [
    ['data: {', '}', 'x'],
    ['data: {', '} ', 'x'],
    ['', 'data: {\n', ''],
    ['data: {}', ' ', 'x'],
  ],
};

/** Expressions on the operator's settings, on codes of Node and on text that another expression has bounded. */
const TRUSTED: ReadonlySet<string> = new Set([
  '/^([^/]+)\\/.+/',
  '/^([^/]+)(?:\\/(\\d{1,3}))?$/',
  '/^\\d+$/',
  '/\\$?\\$\\{(\\w+)\\}/g',
  '/^(CONFIG_FILE|providers|models|keys|keyDefaults|jwt|anonymous|corsOrigins|CORS_ORIGINS|proxy|usage|USAGE_(TO|FILE)|responses|RESPONSES_\\w+|trustProxy|TRUST_PROXY|ticketSecret|TICKET_SECRET|HTTPS?_PROXY|https?_proxy|\\w+_API_KEY|\\w+_(BASE_URL|ENDPOINT)|DEFAULT_MODEL)(_FILE)?\\b/',
  '/^Max open files\\s+(\\d+)/m',
  '/^maxmemory_policy:(\\S+)/m',
  '/[\\s,]+/',
  '/^\\s*Bearer\\s/i',
  '/^\\/?\\d*$/',
  '/^([a-z][a-z0-9+.-]*):\\/\\/([^\\s/?#]+)(.*)$/is',
  '/^"([^"]*)"$|^\'([^\']*)\'$/',
  '/^\\s*(""|\'\')\\s*$/',
  '/:(\\d+)$/',
  '/\\/\\d+$/',
  '/\\.(\\d+)/g', // A field name of at most 128 characters.
  '/\\s*\\S+/gu', // Text without trailing spaces; see `demo.ts`.
  '/\\/+$/',
  '/^(UND_ERR_|EAI_|E(?!RR_)[A-Z0-9]+$|HPE_|ERR_TLS_|ERR_SSL_|ERR_STREAM_|ERR_SOCKET_|CERT_|[A-Z_]*(CERT|SIGNATURE)[A-Z_]*$)/',
  '/^[A-Z_]*(CERT|SIGNATURE|CRL)[A-Z_]*$/',
  '/(\\d+(?:\\.\\d+)?)(ms|s|m|h)/g', // Only text that `^(\\d+(\\.\\d+)?(ms|s|m|h))+$` accepts.
  '/: .*$/',
  // Addresses of Redis, and what Redis answers.
  '/^[^/]*,/',
  '/^\\/[^/]+$/',
  '/^(?:\\[([0-9A-Fa-f:.]+)\\]|([\\w.-]+))(?::(\\d{1,5}))?$/',
  '/^MOVED \\d+ (.+):(\\d+)$/',
  '/^(\\S+) (\\S+)$/',
]);

const isUnbounded = (source: string) => /[*+]|\{\d+,\}/.test(source.replace(/\\.|\[(?:[^\]\\]|\\.)*\]/g, 'x'));

t.test('every unbounded expression of the product has a worst input', async (t) => {
  const sources = new Set(productExpressions().map(({ source }) => source));
  const unbounded = [...sources].filter(isUnbounded);
  t.same(
    unbounded.filter((source) => !(source in WORST) && !TRUSTED.has(source)),
    [],
    'without an entry',
  );
  const stale = [...Object.keys(WORST), ...TRUSTED].filter((source) => !sources.has(source));
  t.same(stale, [], 'entries without an expression');
  t.same(
    [...sources].filter((source) => source.startsWith('new ')),
    ['new RegExp(pattern)'],
    'expressions that are built: of the schema, for messages about settings',
  );
});

t.test('every expression is linear on its worst inputs', async (t) => {
  for (const [source, inputs] of Object.entries(WORST)) {
    const end = source.lastIndexOf('/');
    const expression = new RegExp(source.slice(1, end), source.slice(end + 1));
    const run = (text: string) => void text.replace(expression, '');
    for (const [prefix, pump, suffix] of inputs) {
      const make = (n: number) => prefix + pump.repeat(n / pump.length) + suffix;
      // A quadratic one shows with the short texts already, before the long ones take minutes.
      const short = timeRatio(run, make(10_000), make(40_000));
      t.ok(short <= 6, `${source} on ${JSON.stringify(pump)}: ratio ${short.toFixed(1)}`);
      if (short > 6) continue;
      const long = timeRatio(run, make(250_000), make(1_000_000));
      t.ok(long <= 6, `${source} on ${JSON.stringify(pump)}, long: ratio ${long.toFixed(1)}`);
    }
  }
});

t.test('the check sees a quadratic expression', async (t) => {
  const run = (text: string) => void /\s+$/.test(text);
  // Short: each of a dozen runs takes 100 ms.
  t.ok(timeRatio(run, `${' '.repeat(4_000)}x`, `${' '.repeat(16_000)}x`) > 6);
});
