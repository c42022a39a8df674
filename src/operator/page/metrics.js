// Prometheus's text format, and what can be told from several readings of it.
// An unknown reading is `undefined` all the way to the screen, never 0.

const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;
const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)/;
const SPECIAL = { "+Inf": Infinity, "-Inf": -Infinity };

/** One reading: the samples by metric name. */
export class Reading {
  constructor(text, at) {
    this.at = at; // seconds
    this.samples = new Map();
    for (const line of text.split("\n")) {
      const [, name, labels, value] = line.startsWith("#") ? [] : SAMPLE.exec(line) ?? [];
      if (!name) continue;
      if (!this.samples.has(name)) this.samples.set(name, []);
      this.samples.get(name).push({ labels: parseLabels(labels ?? ""), value: SPECIAL[value] ?? Number(value) });
    }
  }

  /** The samples of a metric; none if it is not there. */
  all(name) {
    return this.samples.get(name) ?? [];
  }

  /** The sum of a metric's samples with these labels, `undefined` if there are none. */
  sum(name, labels = {}) {
    const matching = this.all(name).filter((sample) => Object.entries(labels).every(([key, value]) => sample.labels[key] === value));
    return matching.length ? matching.reduce((sum, sample) => sum + sample.value, 0) : undefined;
  }

  /** The sample with the least value, `undefined` if there is none. */
  least(name) {
    return this.all(name).reduce((least, sample) => (least && least.value <= sample.value ? least : sample), undefined);
  }

  /** The sample with the greatest value, `undefined` if there is none. */
  greatest(name) {
    return this.all(name).reduce((most, sample) => (most && most.value >= sample.value ? most : sample), undefined);
  }
}

function parseLabels(text) {
  const labels = {};
  for (const [, key, value] of text.matchAll(LABEL)) {
    labels[key] = value.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
  }
  return labels;
}

/** The readings of the last minute, for what needs two of them. */
export class Readings {
  #kept = [];

  /** Adds one; says whether the server was restarted since the last, which makes all counters begin again. */
  add(reading) {
    const started = reading.sum("process_start_time_seconds");
    const restarted = this.latest !== undefined && this.latest.sum("process_start_time_seconds") !== started;
    if (restarted) this.#kept = [];
    this.#kept.push(reading);
    while (this.#kept[0].at < reading.at - 60) this.#kept.shift();
    return restarted;
  }

  get latest() {
    return this.#kept.at(-1);
  }

  /** The oldest reading of the last `seconds`. */
  #first(seconds) {
    return this.#kept.find((reading) => reading.at >= this.latest.at - seconds);
  }

  /** How much a counter grew in the last `seconds`. A counter that appeared since then began at 0. */
  #growth(name, seconds, labels) {
    const now = this.latest.sum(name, labels);
    const then = this.#first(seconds).sum(name, labels) ?? 0;
    return now === undefined ? undefined : now - then;
  }

  /** A counter's growth a second over the last `seconds`. */
  rate(name, seconds, labels) {
    const elapsed = this.latest.at - this.#first(seconds).at;
    const growth = this.#growth(name, seconds, labels);
    return elapsed > 0 && growth !== undefined ? growth / elapsed : undefined;
  }

  /** A histogram's least bound: below it, a quantile is a guess. */
  finest(name) {
    return Math.min(...this.latest.all(`${name}_bucket`).map(({ labels }) => Number(labels.le)).filter(Number.isFinite));
  }

  /** The quantile of what a histogram of all models got in the last `seconds`; `undefined` if that is nothing. */
  quantile(q, name, seconds) {
    const bounds = new Map();
    for (const { labels } of this.latest.all(`${name}_bucket`)) bounds.set(labels.le, SPECIAL[labels.le] ?? Number(labels.le));
    const buckets = [...bounds]
      .map(([le, bound]) => ({ bound, count: this.#growth(`${name}_bucket`, seconds, { le }) }))
      .sort((a, b) => a.bound - b.bound);
    return quantile(q, buckets);
  }
}

/** As Prometheus does it: the bucket where the quantile lies, and a straight line inside it. Counts are cumulative. */
export function quantile(q, buckets) {
  const total = buckets.at(-1)?.count;
  if (!total) return undefined;
  const rank = q * total;
  const index = buckets.findIndex((bucket) => bucket.count >= rank);
  const below = buckets[index - 1] ?? { bound: 0, count: 0 };
  const { bound, count } = buckets[index];
  if (bound === Infinity) return below.bound;
  return below.bound + (bound - below.bound) * ((rank - below.count) / (count - below.count));
}
