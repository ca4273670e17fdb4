import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/**
 * Checks the language of tracked files: comments begin with a verb or a name, standard words are used, and
 * old names do not return. Part of `npm run lint`. Prints each finding and exits 1 if there is one.
 */

const CHECKED = /\.(ts|js|mjs|lua|md|ya?ml|html)$/;
const EXEMPT = /^(CHANGELOG\.md|scripts\/check-prose\.mjs)$|^docs\/images\//;

/** Doc comments that begin with a question word instead of a verb or a name. */
const OPENER = /\/\*\*\s*(?:\n\s*\*\s*)?(What|Whatever|Whether|How|Who|Whom|Whoever|Whose|Where|Why)\b/g;

/** Words that have a standard replacement. */
const WORDS = {
  anew: 'again',
  'in vain': 'without effect',
  whoever: 'name the actor',
  forthwith: 'immediately',
  thereof: 'of it',
  '(?:is|was|are|were|goes|went) away(?! from)': 'unavailable, or disconnected',
  'stands? there': 'is',
  'mend(?:s|ed|ing)?': 'fix',
  'heirs?': 'new producer',
  bequest: 'serialized prompt',
  'guests?': 'reader',
  'last words?': 'final event',
};

/** Names that were replaced; see CHANGELOG.md and the glossary in docs/architecture.md. */
const NAMES = [
  'createHeir|onInherited|goOnAlone|unlessAway|RedisAway|wishStop|isStopWished|placeOf|firstOf|holderOf',
  'ProducedLog|FollowedLog|isAttached|onDetached|catchUp|steadyMs|isDeaf|unsaid|canMove|sendOff',
  'takeAnswer|takeRequest|isTooHigh|readInFrames|afterFrame|frameMs|KeyLease|onResting|isDead|ANYBODY',
  'reconfigure|onReconfigure|openAIError\\b(?=\\()|MOST_[A-Z]+|LEAST_[A-Z]+|LOOKS_A_[A-Z]+|ECHO_MS|LAST_WORD_MS|SOON_MS',
  'STREAM_MAX_BYTES|MAX_STREAMS|HAND_OVER_MS|STREAM_BUSY_FLUSH_MS|(?<!MAX_)EVENT_LOOP_DELAY_MS',
  'maxStreams|handOverMs|busyFlushMs|streams\\.maxBytes|redis\\.replicas',
  'sluice_(?:first_token|between_tokens|frame)_seconds|sluice_keys_rested_total|sluice_streams_detached_total',
];

const RULES = [
  ...Object.entries(WORDS).map(([word, instead]) => [new RegExp(`\\b(?:${word})\\b`, 'gi'), `write "${instead}"`]),
  [new RegExp(`\\b(?:${NAMES.join('|')})\\b`, 'g'), 'old name'],
];

const files = execFileSync('git', ['ls-files'], { encoding: 'utf8' }).split('\n');
let findings = 0;

for (const file of files) {
  if (!CHECKED.test(file) || EXEMPT.test(file)) continue;
  const text = readFileSync(file, 'utf8');
  const report = (index, found, hint) => {
    const line = text.slice(0, index).split('\n').length;
    console.error(`${file}:${line}: "${found}": ${hint}`);
    findings += 1;
  };
  if (!file.endsWith('.md')) {
    for (const match of text.matchAll(OPENER)) {
      report(match.index, match[1], 'begin the comment with a verb or the name of the symbol');
    }
  }
  for (const [pattern, hint] of RULES) {
    for (const match of text.matchAll(pattern)) report(match.index, match[0], hint);
  }
}

if (findings > 0) {
  console.error(`${findings} findings; see "Language" in CONTRIBUTING.md`);
  process.exitCode = 1;
}
