import { Transform } from 'node:stream';

/**
 * Passes TAP through. Closes with the skipped tests and their reasons, and with one line that any machine can
 * read: `N passed, N failed`.
 */
export default class Reporter extends Transform {
  #rest = '';
  #skipped = [];
  #summary = { pass: 0, fail: 0, skip: 0 };

  _transform(chunk, _encoding, callback) {
    this.#rest += chunk;
    const lines = this.#rest.split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) this.#onLine(line);
    callback();
  }

  _flush(callback) {
    if (this.#rest !== '') this.#onLine(this.#rest);
    const { pass, fail, skip } = this.#summary;
    for (const line of this.#skipped) this.push(`skipped: ${line}\n`);
    this.push(`${pass} passed, ${fail} failed${skip > 0 ? `, ${skip} skipped` : ''}\n`);
    callback();
  }

  #onLine(line) {
    const summary = /^# \{ (total: .*) \}$/.exec(line)?.[1];
    if (summary !== undefined) {
      for (const key of Object.keys(this.#summary)) {
        this.#summary[key] = Number(new RegExp(`${key}: (\\d+)`).exec(summary)?.[1] ?? 0);
      }
    }
    const skipped = /^\s*ok \d+ - (.*) # SKIP (.+)$/.exec(line);
    if (skipped) this.#skipped.push(`${skipped[1]} (${skipped[2]})`);
    // Passing assertions are many; what a person wants is the files, the failures and the skips.
    if (/^\s+ok /.test(line) && !line.includes('# SKIP')) return;
    this.push(`${line}\n`);
  }
}
