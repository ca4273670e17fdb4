import type { FileReader } from './files.ts';
import { describeFileError } from './messages.ts';

/** Reads prices of models in the format of LiteLLM's `model_prices_and_context_window.json`. */

/** Prices in USD per million tokens. A price that is absent is unknown, not zero. */
export interface TokenPrices {
  readonly input?: number;
  readonly output?: number;
  /** Input that the provider read from its cache. Without it, the price of input applies. */
  readonly cached?: number;
  /** Input that the provider wrote to its cache. Without it, the price of input applies. */
  readonly cacheWrite?: number;
  /** Input that the provider keeps in its cache for an hour. Without it, the price of other writes applies. */
  readonly longCacheWrite?: number;
  /** Reasoning. Without it, the price of output applies. */
  readonly reasoning?: number;
}

/** Prices of one model. */
export interface ModelPrice extends TokenPrices {
  /** Prices of all tokens of calls with more input than `above`; in rising order. Each is complete. */
  readonly tiers?: readonly PriceTier[];
}

export interface PriceTier extends TokenPrices {
  readonly above: number;
}

export interface PriceFileEntry {
  /** `litellm_provider` of the entry. */
  readonly provider: string;
  readonly price: ModelPrice;
}

export interface PriceTable {
  /** By the names of the file, such as `gpt-4o` or `gemini/gemini-2.5-pro`. */
  readonly entries: ReadonlyMap<string, PriceFileEntry>;
  /** Number of entries that are wrong. Their models have no price. */
  readonly skipped: number;
}

/** Fields of an entry, in USD per token. */
const FIELDS = {
  input: 'input_cost_per_token',
  output: 'output_cost_per_token',
  cached: 'cache_read_input_token_cost',
  cacheWrite: 'cache_creation_input_token_cost',
  longCacheWrite: 'cache_creation_input_token_cost_above_1hr',
  reasoning: 'output_cost_per_reasoning_token',
} as const;

/** Entries of other kinds of models are ignored. An entry without a kind may be a chat model. */
const MODES: ReadonlySet<unknown> = new Set(['chat', 'responses', 'completion', undefined]);

/** Documents the format in the file itself. */
const SAMPLE = 'sample_spec';

const MAX_USD_PER_TOKEN = 1;

type Fields = Readonly<Record<string, unknown>>;

/** An entry that is not in the format. */
class WrongEntry extends Error {}

/** Reads a file of prices. Adds a problem to the list, and returns undefined, if it has no prices. */
export function readPriceFile(
  path: string,
  files: FileReader,
  setting: string,
  problems: string[],
): PriceTable | undefined {
  let text: string;
  try {
    text = files.read(path);
  } catch (error) {
    problems.push(`${setting}: ${describeFileError(error)}`);
    return undefined;
  }
  const table = parsePrices(text);
  if (table === undefined || table.entries.size === 0) {
    problems.push(
      `${setting}: ${table ? 'the file has no prices' : 'not valid JSON'}; must be in the format of LiteLLM's model_prices_and_context_window.json`,
    );
  }
  return table;
}

/** Returns the prices of chat models; undefined if the text is not a JSON object. */
export function parsePrices(text: string): PriceTable | undefined {
  let document: unknown;
  try {
    // `trim` removes a byte order mark, too.
    document = JSON.parse(text.trim());
  } catch {
    return undefined;
  }
  if (!isObject(document)) return undefined;
  const entries = new Map<string, PriceFileEntry>();
  let skipped = 0;
  for (const [name, entry] of Object.entries(document)) {
    if (name === SAMPLE) continue;
    try {
      const found = toEntry(entry);
      if (found !== undefined) entries.set(name, found);
    } catch {
      skipped += 1;
    }
  }
  return { entries, skipped };
}

/**
 * Returns an entry; undefined if it has no prices per token.
 * @throws WrongEntry
 */
function toEntry(entry: unknown): PriceFileEntry | undefined {
  if (!isObject(entry)) throw new WrongEntry();
  if (!MODES.has(entry.mode)) return undefined;
  // The price depends on the time of day. Without support for it, the cost would be wrong for half of the day.
  if (entry.off_peak_pricing !== undefined) return undefined;
  const price = entry.tiered_pricing === undefined ? toPrice(entry) : toTieredPrice(entry.tiered_pricing);
  if (price.input === undefined && price.output === undefined && price.tiers === undefined) return undefined;
  return { provider: typeof entry.litellm_provider === 'string' ? entry.litellm_provider : '', price };
}

/** Returns the prices of an entry with fields such as `input_cost_per_token_above_200k_tokens`. */
function toPrice(entry: Fields): ModelPrice {
  const base = readPrices(entry, (field) => field);
  const bounds = new Set(Object.keys(entry).flatMap(boundsOf));
  let previous: TokenPrices = base;
  const tiers = [...bounds]
    .sort((a, b) => boundOf(a) - boundOf(b))
    .map((bound): PriceTier => {
      previous = { ...previous, ...readPrices(entry, (field) => `${field}_above_${bound}_tokens`) };
      return { ...previous, above: boundOf(bound) };
    });
  return tiers.length > 0 ? { ...base, tiers } : base;
}

/** Returns the bound in the name of a field, as `200k`. */
function boundsOf(name: string): string[] {
  if (!name.includes('_above_')) return [];
  for (const field of Object.values(FIELDS)) {
    const prefix = `${field}_above_`;
    if (!name.startsWith(prefix) || !name.endsWith('_tokens')) continue;
    const bound = name.slice(prefix.length, -'_tokens'.length);
    if (boundOf(bound) > 0) return [bound];
  }
  return [];
}

/** Returns the number of tokens in `200k` or `128000`; NaN for other texts. */
function boundOf(text: string): number {
  return text.endsWith('k') ? Number(text.slice(0, -1)) * 1_000 : Number(text);
}

/** Returns the prices of a list of ranges, as Alibaba has them: the input decides on the price of all tokens. */
function toTieredPrice(list: unknown): ModelPrice {
  if (!Array.isArray(list)) throw new WrongEntry();
  const tiers = list
    .map((tier: unknown): PriceTier => {
      const [above] = isObject(tier) && Array.isArray(tier.range) ? (tier.range as unknown[]) : [];
      if (typeof above !== 'number' || !(above >= 0)) throw new WrongEntry();
      return { ...readPrices(tier as Fields, (field) => field), above };
    })
    .sort((a, b) => a.above - b.above);
  return { ...(tiers[0]?.above === 0 && withoutBound(tiers[0])), tiers };
}

function withoutBound({ above, ...prices }: PriceTier): TokenPrices {
  return prices;
}

/**
 * Returns the prices per million tokens.
 * @throws WrongEntry if one of them is no price
 */
function readPrices(entry: Fields, nameOf: (field: string) => string): TokenPrices {
  const prices: Record<string, number> = {};
  for (const [kind, field] of Object.entries(FIELDS)) {
    const usd = entry[nameOf(field)] ?? undefined;
    if (usd === undefined) continue;
    if (typeof usd !== 'number' || !(usd >= 0 && usd <= MAX_USD_PER_TOKEN)) throw new WrongEntry();
    // Without the noise of the multiplication: 1.25e-7 is 0.125 per million.
    prices[kind] = Number((usd * 1e6).toPrecision(15));
  }
  return prices;
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
