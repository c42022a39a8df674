// The charts: what each shows, and what it says where the box does not measure that.

import { binaryStep } from "./chart.js";

const LATENCY_WINDOW = 30; // seconds of answers that a quantile is taken of
const RATE_WINDOW = 10;

export const PANELS = [
  {
    title: "Time to first token",
    lines: [{ name: "95 %", kind: "first" }, { name: "50 %", kind: "second" }],
    format: seconds,
    read(readings) {
      const name = "edgellm_time_to_first_token_seconds";
      const [most, half] = [0.95, 0.5].map((q) => readings.quantile(q, name, LATENCY_WINDOW));
      if (most === undefined) return { values: [undefined, undefined], number: "–", detail: `no answers in the last ${LATENCY_WINDOW} s` };
      return { values: [most, half], number: readings.finest(name) >= most ? `under ${seconds(readings.finest(name))}` : seconds(most), detail: "for 95 of 100 answers" };
    },
  },
  {
    title: "Speed",
    lines: [{ name: "tokens a second", kind: "first" }],
    format: (value) => number(value),
    read(readings) {
      const rate = readings.rate("edgellm_generation_tokens_total", RATE_WINDOW);
      return { values: [rate], number: rate === undefined ? "–" : number(rate), detail: "tokens a second, all answers" };
    },
  },
  {
    title: "Requests",
    lines: [{ name: "running", kind: "first" }, { name: "waiting", kind: "second" }],
    format: (value) => number(value),
    least: 3, // whole requests on the axis
    read({ latest }) {
      const [running, waiting] = [latest.sum("edgellm_requests_running"), latest.sum("edgellm_requests_waiting")];
      return { values: [running, waiting], number: number(running), detail: `running, ${number(waiting)} waiting` };
    },
  },
  {
    title: "Power",
    lines: [{ name: "draw", kind: "first" }, { name: "budget", kind: "limit" }],
    format: (value) => `${number(value)} W`,
    read({ latest }) {
      const draw = mainDraw(latest);
      const budget = latest.least("edgellm_power_budget_watts")?.value;
      const headroom = latest.sum("edgellm_power_headroom_watts");
      if (!draw) return { values: [undefined, undefined], number: "–", detail: "This box has no power sensor that can be read." };
      const left = budget === undefined ? "no budget set" : `of ${number(budget)} W${headroom === undefined ? "" : `, ${number(headroom)} W left`}`;
      const source = draw.labels.quality === "estimated" ? "estimated" : draw.labels.scope;
      return { values: [draw.value, budget], number: `${number(draw.value)} W`, detail: [left, source].filter(Boolean).join(" · ") };
    },
  },
  {
    title: "Temperature",
    lines: [{ name: "now", kind: "first" }, { name: "limit", kind: "limit" }],
    format: (value) => `${number(value)} °C`,
    read({ latest }) {
      // The zone that matters is the one nearest to its trip point; where none is known, the hottest.
      const nearest = latest.least("edgellm_thermal_headroom_celsius");
      const zones = latest.all("edgellm_temperature_celsius");
      const zone = zones.find((sample) => sample.labels.zone === nearest?.labels.zone) ?? latest.greatest("edgellm_temperature_celsius");
      if (!zone) return { values: [undefined, undefined], number: "–", detail: "This box has no temperature sensor that can be read." };
      const limit = zone.labels.zone === nearest?.labels.zone ? zone.value + nearest.value : undefined;
      const left = limit === undefined ? "" : `${number(limit - zone.value)} °C below its limit`;
      return { values: [zone.value, limit], number: `${number(zone.value)} °C`, detail: [left, zone.labels.zone].filter(Boolean).join(" · ") };
    },
  },
  {
    title: "Memory",
    lines: [{ name: "in use", kind: "first" }, { name: "limit", kind: "limit" }],
    format: bytes,
    step: binaryStep,
    read({ latest }) {
      const [used, limit] = [latest.sum("edgellm_memory_usage_bytes"), latest.least("edgellm_memory_limit_bytes")?.value];
      if (used !== undefined) return { values: [used, limit], number: bytes(used), detail: limit === undefined ? "in use" : `of ${bytes(limit)}` };
      const own = latest.sum("process_resident_memory_bytes");
      if (own !== undefined) return { values: [own, undefined], number: bytes(own), detail: "held by the server itself" };
      return { values: [undefined, undefined], number: "–", detail: "Memory use cannot be read here." };
    },
  },
];

/** The draw that stands for the box: of the whole board where that is known, and measured rather than estimated. */
function mainDraw(reading) {
  const rank = ({ labels }) => (labels.scope === "board" ? 0 : 1) + (labels.quality === "estimated" ? 2 : 0);
  return reading.all("edgellm_power_draw_watts").reduce((best, sample) => (best && rank(best) <= rank(sample) ? best : sample), undefined);
}

// The governor's measures in the order of their levels, which begin at 1.
const MEASURES = {
  cache: "Fewer prompts kept ready",
  flex: "Flex requests parked",
  rows: "Fewer answers at once",
  pace: "Answers slowed down",
  sibling: "A smaller model answers",
  refuse: "New requests refused",
};

/** A level in words. */
export function levelName(level) {
  return level > 0 ? Object.values(MEASURES)[level - 1] ?? "Held back" : "Full service";
}

/** The governor's level and the resource that presses most. `undefined` where the server has none. */
export function governor(reading) {
  const level = reading.sum("edgellm_governor_level");
  const pressures = reading
    .all("edgellm_governor_pressure_ratio")
    .map(({ labels, value }) => ({ resource: labels.resource, value }))
    .sort((a, b) => b.value - a.value);
  return level === undefined ? undefined : { level, pressures };
}

/** Measures of the governor that were counted between two readings, as `{ action, resource }`. */
export function newActions(before, after) {
  const name = "edgellm_governor_actions_total";
  return after
    .all(name)
    .filter(({ labels, value }) => value > (before.sum(name, labels) ?? 0))
    .map(({ labels }) => ({ action: MEASURES[labels.action] ?? words(labels.action), resource: words(labels.resource) }));
}

/** A metric's label as words. */
export function words(label) {
  return (label ?? "").replaceAll("_", " ");
}

export function number(value) {
  if (value === undefined) return "–";
  const digits = Math.abs(value) < 10 ? 1 : 0;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

export function seconds(value) {
  if (value === undefined) return "–";
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 })} s`;
}

export function bytes(value) {
  if (value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = value < 1 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
  const scaled = value / 1024 ** unit;
  return `${scaled.toLocaleString("en", { maximumFractionDigits: scaled < 10 ? 1 : 0 })} ${units[unit]}`;
}
