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
      const { draw, budget } = power(latest);
      if (!draw) return unknown(latest, "edgellm_power_source_up", "source", "This box has no power sensor.");
      const over = budget - draw.value < 0 ? `${number(draw.value - budget)} W too much` : `${number(budget - draw.value)} W left`;
      const left = budget === undefined ? "no budget for it" : `of ${number(budget)} W, ${over}`;
      const source = draw.labels.quality === "estimated" ? "estimated" : SCOPES[draw.labels.scope];
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
      if (!zone) return unknown(latest, "edgellm_sensor_up", "sensor", "This box has no temperature sensor.", "thermal");
      const limit = zone.labels.zone === nearest?.labels.zone ? zone.value + nearest.value : undefined;
      const left = limit === undefined ? "no limit known" : `${number(Math.abs(nearest.value))} °C ${nearest.value < 0 ? "above" : "below"} its limit`;
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
      if (used !== undefined && limit !== undefined) return { values: [used, limit], number: bytes(used), detail: `of ${bytes(limit)}, ${bytes(Math.max(limit - used, 0))} left` };
      const own = latest.sum("process_resident_memory_bytes");
      if (own !== undefined) return { values: [own, undefined], number: bytes(own), detail: "by the server itself; the limit is unknown" };
      return { values: [undefined, undefined], number: "Unknown", detail: "It cannot be read here." };
    },
  },
];

/** What a panel says whose sensors are silent: that they are, where there are any. */
function unknown(reading, status, label, none, only) {
  const silent = reading.all(status).filter(({ labels, value }) => value === 0 && (only === undefined || labels[label] === only)).map(({ labels }) => words(labels[label]));
  const detail = silent.length ? `Cannot be read: ${silent.join(", ")}. The server's log says why.` : none;
  return { values: [undefined, undefined], number: "Unknown", detail };
}

/**
 * The draw that is held against a budget, and that budget: the two that the headroom is between, for a draw has its own
 * scope. Where there is no headroom, the draw that says most: of the whole board, and measured rather than estimated.
 */
function power(reading) {
  const draws = reading.all("edgellm_power_draw_watts");
  const headroom = reading.sum("edgellm_power_headroom_watts");
  for (const draw of headroom === undefined ? [] : draws) {
    for (const { value: budget } of reading.all("edgellm_power_budget_watts")) {
      if (Math.abs(budget - draw.value - headroom) < 1e-6) return { draw, budget };
    }
  }
  const rank = ({ labels }) => ["board", "package", "part"].indexOf(labels.scope) + (labels.quality === "estimated" ? 3 : 0);
  return { draw: draws.reduce((best, sample) => (best && rank(best) <= rank(sample) ? best : sample), undefined) };
}

const SCOPES = { board: "whole board", package: "processor", part: "a part of the board" };

// The governor's measures in the order of their levels, which begin at 1.
const MEASURES = {
  cache: "Fewer prompts kept ready",
  flex: "Flex requests parked",
  rows: "Fewer answers at once",
  pace: "Answers slowed down",
  sibling: "Smaller models answer for those that have siblings",
  refuse: "New requests refused",
};

// What the box may be short of, in words.
const RESOURCES = { power: "Power", thermal: "Heat", memory: "Memory", cpu: "Other programs" };

/** A resource as a row or the beginning of a sentence has it. */
export function resourceName(resource) {
  return RESOURCES[resource] ?? words(resource);
}

/** A level in words. */
export function levelName(level) {
  return level > 0 ? Object.values(MEASURES)[level - 1] ?? "Held back" : "Full service";
}

/**
 * The governor's level, what presses how much (`value` is `undefined` where that is unknown), and why the level is what it is.
 * `undefined` where the server has no governor.
 */
export function governor(reading) {
  const level = reading.sum("edgellm_governor_level");
  if (level === undefined) return undefined;
  const pressures = Object.keys(RESOURCES).map((resource) => ({
    resource,
    value: reading.sum("edgellm_governor_pressure_ratio", { resource }),
    rehearsed: reading.sum("edgellm_governor_rehearsed_pressure_ratio", { resource }) !== undefined,
  }));
  return { level, pressures, why: why(reading, level, pressures) };
}

function why(reading, level, pressures) {
  const all = reading.all("edgellm_governor_measure_active");
  if (all.length === 0) return "It only watches: every measure is switched off in the configuration.";
  if (level === 0) {
    const known = pressures.filter(({ value }) => value !== undefined);
    return known.length ? "Nothing that is measured is short." : "Nothing that it could act upon is measured on this box.";
  }
  const name = Object.keys(MEASURES)[level - 1];
  const short = all.filter(({ labels, value }) => value === 1 && labels.action === name).map(({ labels }) => labels.resource);
  const causes = short.map((resource) => `${resourceName(resource).toLowerCase()}${pressures.find((one) => one.resource === resource)?.rehearsed ? " (a rehearsal)" : ""}`);
  const others = all.filter(({ labels, value }) => value === 1 && labels.action !== name).map(({ labels }) => MEASURES[labels.action] ?? words(labels.action));
  const also = others.length ? ` In force as well: ${[...new Set(others)].join(", ").toLowerCase()}.` : "";
  return `Level ${number(level)} of 6, because of ${causes.join(" and ") || "what was short a moment ago"}.${also}`;
}

/** Sensors that are there and say nothing that can be true, by name. */
export function silentSensors(reading) {
  // Chips tell of their channels, by name.
  const silent = (status, label) => reading.all(status).filter(({ labels, value }) => value === 0 && labels[label] !== "hwmon").map(({ labels }) => words(labels[label]));
  return [...new Set([...silent("edgellm_power_source_up", "source"), ...silent("edgellm_sensor_up", "sensor")])];
}

/** Measures of the governor that were counted between two readings, as `{ action, resource }`. */
export function newActions(before, after) {
  const name = "edgellm_governor_actions_total";
  return after
    .all(name)
    .filter(({ labels, value }) => value > (before.sum(name, labels) ?? 0))
    .map(({ labels }) => ({ action: MEASURES[labels.action] ?? words(labels.action), resource: resourceName(labels.resource).toLowerCase() }));
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
