// What the server says of itself: readiness, models and metrics, in the words of the page.

import { Reading } from "./metrics.js";
import { credentials, session } from "./session.js";

const PATIENCE_MS = 5000;

const UNREACHABLE = "The server cannot be reached.";
const REFUSING = "Refusing requests";

// What /ready calls the reason, and what an operator should know about it.
const REASONS = {
  cold: ["loading", "Loading", "A model is about to be loaded; requests for it wait until it is."],
  queued: ["loading", "Loading", "A model waits for memory, or for another one that is being loaded; requests for it wait as well."],
  loading: ["loading", "Loading", "A model is being loaded; requests for it wait until it is."],
  unloading: ["loading", "Loading", "A model gives its memory back before it is loaded again; requests for it wait until it is."],
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

/**
 * Asks for everything that the page shows. Never fails: what could not be had is `undefined`.
 * `models` is what everybody is told of them, `pool` what administrators are.
 * `refused` has the answers 401 and 403 to the models, the pool and the metrics.
 */
export async function look() {
  const [ready, models, pool, metrics] = await Promise.all([askReady(), ...["v1/models", "models", "metrics"].map((path) => askAs(session.key, path))]);
  // It may have other keys when it comes back.
  if (!ready) session.refusals.clear();
  const reading = read(metrics);
  return {
    standing: standing(ready, reading),
    models: models?.ok ? parse(models.text)?.data : undefined,
    pool: pool?.ok ? parse(pool.text) : undefined,
    reading,
    refused: { models: refusedOnly(models), pool: refusedOnly(pool), metrics: refusedOnly(metrics) },
  };
}

/** One reading of the metrics, `undefined` if it cannot be had. */
export async function askMetrics() {
  return read(await askAs(session.key, "metrics"));
}

/** Has a model loaded or unloaded (`action`); says why not if the server does not take that. */
export async function changeModel(action, model) {
  const response = await ask(`models/${action}`, session.key, { model });
  if (!response) return UNREACHABLE;
  return response.ok ? undefined : message(response);
}

/** Why the server does not take this key; `undefined` if it does. */
export async function whyRefused(key) {
  const response = await ask("v1/models", key);
  if (!response) return UNREACHABLE;
  return response.ok ? undefined : message(response);
}

/** What a refusal says. */
export function message(response) {
  return parse(response.text)?.error?.message ?? `The server answered with status ${response.status}.`;
}

function read(metrics) {
  return metrics?.ok ? new Reading(metrics.text, Date.now() / 1000) : undefined;
}

async function askReady() {
  const response = await ask("ready");
  return response && { ok: response.ok, status: response.status, body: parse(response.text) };
}

/** Asks with this key, unless that was refused already. */
async function askAs(key, path) {
  const before = session.refusals.get(path);
  if (before) return before;
  const response = await ask(path, key);
  if (refusedOnly(response) && key === session.key) session.refusals.set(path, response);
  return response;
}

function refusedOnly(response) {
  return response?.status === 401 || response?.status === 403 ? response : undefined;
}

async function ask(path, key, body) {
  const sent = body && { method: "POST", body: JSON.stringify(body) };
  const headers = { ...(body && { "content-type": "application/json" }), ...credentials(key) };
  try {
    const response = await fetch(path, { ...sent, cache: "no-store", headers, signal: AbortSignal.timeout(PATIENCE_MS) });
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
