// Who holds how much memory against the budget of the pool, and which models left to make room.

import { byId, make, part, setText } from "./dom.js";
import { bytes, number, words } from "./panels.js";

// The kinds of memory in words, in the order in which they are drawn.
const KINDS = {
  program: "Program",
  weights: "Weights",
  kv_cache: "KV caches",
  compute: "Compute buffers",
  parked_prompts: "Parked prompts",
  grammars: "Grammars",
  bodies: "Bodies of requests",
  streams: "Answers on their way",
  responses: "Stored responses",
};

// Why models were told to leave.
const REASONS = {
  idle: "not used for their keep_alive",
  room: "made room for another",
  turn: "busy, and another's turn came",
  over_budget: "memory was over the budget",
  sibling: "a smaller sibling answers",
  asked: "unloaded by an administrator",
};

/** `held` is what `GET /models` says beside the models. */
export function showMemory(held, reading) {
  const kinds = sorted(held.memory);
  const taken = kinds.reduce((sum, { bytes }) => sum + bytes, 0);
  const budget = held.memory_budget;
  const isOver = budget !== undefined && taken > budget;
  setText(byId("memory-total"), budget === undefined ? bytes(taken) : `${bytes(taken)} of ${bytes(budget)}`);
  setText(byId("memory-left"), left(taken, budget));
  byId("memory-left").classList.toggle("problem", isOver);
  const whole = Math.max(taken, budget ?? 0, 1);
  byId("memory-bar").replaceChildren(...kinds.map(({ kind, bytes }) => part(bytes / whole, kindClass(kind))));
  byId("memory-bar").setAttribute("aria-label", `Memory: ${byId("memory-total").textContent}. ${kinds.map(({ kind, bytes: held }) => `${kindName(kind)} ${bytes(held)}`).join(", ")}.`);
  byId("memory-kinds").replaceChildren(...kinds.map(({ kind, bytes: held }) => {
    const item = make("li", kindClass(kind));
    item.append(make("span", "", kindName(kind)), make("span", "share", bytes(held)));
    return item;
  }));
  setText(byId("evictions"), evictions(reading));
}

/** The kinds that hold something, in our order; those that we do not know last. */
function sorted(memory) {
  const order = Object.keys(KINDS);
  const rank = ({ kind }) => (order.includes(kind) ? order.indexOf(kind) : order.length);
  return memory.filter(({ bytes }) => bytes > 0).sort((a, b) => rank(a) - rank(b));
}

function kindName(kind) {
  return KINDS[kind] ?? words(kind);
}

function kindClass(kind) {
  return `kind ${kind in KINDS ? kind : "other"}`;
}

function left(taken, budget) {
  if (budget === undefined) return "Taken or promised. How much may be taken is not known here; pool.memory_budget sets it.";
  return taken > budget ? `${bytes(taken - budget)} over the budget.` : `Taken or promised; ${bytes(budget - taken)} left of the budget.`;
}

function evictions(reading) {
  if (!reading) return "";
  const counted = reading.all("edgellm_pool_evictions_total").filter(({ value }) => value > 0);
  if (counted.length === 0) return "No model had to leave since the server started.";
  return `Left since the server started: ${counted.map(({ labels, value }) => `${number(value)} ${REASONS[labels.reason] ?? words(labels.reason)}`).join(", ")}.`;
}
