// From the numbers that instances tell (`InstanceStats`) to rates and latencies over time. Pure.

const MAX_SAMPLES = 400;
const MAX_INSTANCES = 64;
const WINDOW_MS = 10 * 60_000;

const METHODS_MS = 60_000;
const NONE = new Map();

/** The calls that ask for these numbers are no load of the component's own. */
const OWN = "/protoplane.v1.Metrics/Stats";

/** What is known of the numbers of each instance, by its path. */
export class Series {
  constructor() {
    this.instances = new Map();
  }

  /** Take the numbers of one moment. */
  take(stats) {
    const at = Date.parse(stats.takenAt);
    let samples = this.instances.get(stats.instance);
    if (!samples) {
      samples = [];
      this.instances.set(stats.instance, samples);
      if (this.instances.size > MAX_INSTANCES) this.instances.delete(this.instances.keys().next().value);
    }
    const last = samples.at(-1);
    if (last && at <= last.at) return;
    samples.push(sample(at, stats, last));
    // Only what is still asked for is kept: totals of the newest, methods of the last minute.
    if (last) last.totals = null;
    for (const each of samples) {
      if (each.at > at - METHODS_MS) break;
      each.methods = NONE;
    }
    while (samples.length > MAX_SAMPLES || samples[0].at < at - WINDOW_MS) samples.shift();
  }

  /** The samples of an instance, or of all together, one each `stepMs`, up to now. */
  points(name, { stepMs, spanMs, now }) {
    const chosen = name ? [this.instances.get(name) ?? []] : [...this.instances.values()];
    const end = Math.floor(now / stepMs) * stepMs;
    const points = [];
    for (let at = end - spanMs + stepMs; at <= end; at += stepMs) {
      // An instance tells every few seconds; what it said last stands for as long.
      const found = chosen.map((samples) => latest(samples, at)).filter(Boolean);
      points.push({ at, ...merge(found) });
    }
    return points;
  }

  /** What each method did of late, of one instance or all: the busiest first. */
  methods(name, now) {
    const found = new Map();
    for (const [instance, samples] of this.instances) {
      if (name && instance !== name) continue;
      for (const { at, spanS, methods } of samples) {
        if (at < now - METHODS_MS || !spanS) continue;
        for (const [method, { calls, errors, buckets, bounds }] of methods) {
          const sum = found.get(method) ?? { method, calls: 0, errors: 0, buckets: [], bounds };
          sum.calls += calls;
          sum.errors += errors;
          buckets.forEach((each, index) => { sum.buckets[index] = (sum.buckets[index] ?? 0) + each; });
          found.set(method, sum);
        }
      }
    }
    return [...found.values()].filter((each) => each.calls).sort((one, other) => other.calls - one.calls);
  }
}

function sample(at, stats, before) {
  const spanS = before ? (at - before.at) / 1000 : 0;
  const restarted = before && before.since !== stats.since;
  const totals = new Map();
  const methods = new Map();
  let calls = 0;
  let errors = 0;
  const buckets = [];
  for (const each of stats.methods ?? []) {
    if (each.method === OWN) continue;
    const total = totals.get(each.method) ?? { calls: 0, errors: 0, buckets: [] };
    for (const [code, ended] of Object.entries(each.ended ?? {})) {
      total.calls += Number(ended);
      if (code !== "OK") total.errors += Number(ended);
    }
    (each.buckets ?? []).forEach((value, index) => { total.buckets[index] = (total.buckets[index] ?? 0) + Number(value); });
    totals.set(each.method, total);
  }
  const bounds = stats.boundsS ?? [];
  for (const [method, total] of totals) {
    const old = (!restarted && before?.totals.get(method)) || { calls: 0, errors: 0, buckets: [] };
    // Without numbers from before, nobody knows when these calls were.
    const did = spanS ? {
      calls: Math.max(0, total.calls - old.calls),
      errors: Math.max(0, total.errors - old.errors),
      buckets: total.buckets.map((value, index) => Math.max(0, value - (old.buckets[index] ?? 0))),
      bounds,
    } : { calls: 0, errors: 0, buckets: [], bounds };
    methods.set(method, did);
    calls += did.calls;
    errors += did.errors;
    did.buckets.forEach((value, index) => { buckets[index] = (buckets[index] ?? 0) + value; });
  }
  return {
    at, spanS, since: stats.since, totals, methods, bounds, buckets,
    rate: spanS ? calls / spanS : null,
    errorRate: spanS ? errors / spanS : null,
    inFlight: Number(stats.inFlight ?? 0),
    queued: Number(stats.queued ?? 0),
    load: stats.load ?? 0,
    residentBytes: Number(stats.residentBytes ?? 0),
  };
}

function latest(samples, at) {
  let found = null;
  for (const each of samples) {
    if (each.at > at) break;
    found = each;
  }
  return found && at - found.at <= 15_000 ? found : null;
}

function merge(samples) {
  if (!samples.length) return {};
  const sum = (read) => samples.reduce((total, each) => total + (read(each) ?? 0), 0);
  const buckets = [];
  for (const each of samples) {
    each.buckets.forEach((value, index) => { buckets[index] = (buckets[index] ?? 0) + value; });
  }
  const bounds = samples[0].bounds;
  const known = samples.some((each) => each.rate !== null);
  return {
    rate: known ? sum((each) => each.rate) : null,
    errorRate: known ? sum((each) => each.errorRate) : null,
    inFlight: sum((each) => each.inFlight),
    queued: sum((each) => each.queued),
    load: Math.max(...samples.map((each) => each.load)),
    residentBytes: sum((each) => each.residentBytes),
    p50: quantile(buckets, bounds, 0.5),
    p90: quantile(buckets, bounds, 0.9),
    p99: quantile(buckets, bounds, 0.99),
  };
}

/** Seconds that a share of the calls took at most, taken as even within each bucket; null without calls. */
export function quantile(buckets, bounds, share) {
  const total = buckets.reduce((sum, each) => sum + each, 0);
  if (!total) return null;
  let below = 0;
  for (let index = 0; index < buckets.length; index++) {
    below += buckets[index];
    if (below < share * total || !buckets[index]) continue;
    if (index === bounds.length) break;
    const low = index ? bounds[index - 1] : 0;
    return low + (1 - (below - share * total) / buckets[index]) * (bounds[index] - low);
  }
  return bounds.at(-1) ?? null;
}
