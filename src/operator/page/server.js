// What the server says of itself: readiness, models and metrics, in the words of the page.

import { Reading } from "./metrics.js";

const PATIENCE_MS = 5000;

const REFUSING = "Refusing requests";

// What /ready calls the reason, and what an operator should know about it.
const REASONS = {
  loading: ["loading", "Loading", "The model is being loaded; requests are refused until it is."],
  draining: ["draining", "Draining", "Shutting down: answers under way go on, new requests are refused."],
  stopped: ["draining", "Draining", "Shutting down: the model is unloaded."],
  failed: ["failed", "Failed", "A model cannot answer; the server's log says why."],
  queue_full: ["shedding", REFUSING, "The queue is full; new requests are refused until there is room."],
  power: ["shedding", REFUSING, "Short of power; new requests are refused until the draw falls."],
  thermal: ["shedding", REFUSING, "Too hot; new requests are refused until the box cools down."],
  memory: ["shedding", REFUSING, "Short of memory; new requests are refused until some is free."],
};

/** Why requests are refused, for a code that says so; else `undefined`. */
export function refusal(code) {
  return REASONS[code]?.[2];
}

/** Asks for everything that the page shows. Never fails: what could not be had is `undefined`. */
export async function look() {
  const [ready, models, reading] = await Promise.all([askReady(), askModels(), askMetrics()]);
  return { standing: standing(ready, reading), models, reading };
}

/** One reading of the metrics, `undefined` if it cannot be had. */
export async function askMetrics() {
  const response = await ask("metrics");
  return response?.ok ? new Reading(response.text, Date.now() / 1000) : undefined;
}

async function askModels() {
  const response = await ask("v1/models");
  return response?.ok ? parse(response.text)?.data : undefined;
}

async function askReady() {
  const response = await ask("ready");
  return response && { ok: response.ok, status: response.status, body: parse(response.text) };
}

async function ask(path) {
  try {
    const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    return { ok: response.ok, status: response.status, text: await response.text() };
  } catch {
    return undefined;
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function standing(ready, reading) {
  if (!ready) return { state: "unreachable", title: "Not reachable", why: "The server does not answer; this page goes on asking." };
  if (ready.ok) return { state: "ready", title: "Ready", why: "A request sent now is taken." };
  const reason = ready.body?.status;
  if (typeof reason !== "string") return { state: "failed", title: "Unclear", why: `/ready answers with status ${ready.status}.` };
  const [state, title, words] = REASONS[reason] ?? ["shedding", REFUSING, `New requests are refused (${reason}).`];
  const rehearsed = reading?.sum("edgellm_governor_rehearsed_pressure_ratio", { resource: reason }) !== undefined;
  const others = (ready.body.models ?? []).filter((model) => model.reason !== reason).map((model) => `${model.model}: ${model.reason}`);
  return { state, title, why: [words, ...others, ...(rehearsed ? ["This is a rehearsal."] : [])].join(" ") };
}
