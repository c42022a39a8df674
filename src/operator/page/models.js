// The models with their states and what they take of memory, and the buttons that load and unload them.

import { byId, make, meter, setText } from "./dom.js";
import { bytes, number, seconds } from "./panels.js";
import { changeModel } from "./server.js";

// What a state means for whoever asks this model. `tone` is a class of the style sheet; `offers`, what the button does.
const STATES = {
  cold: { tone: "idle", offers: "load", means: "Not loaded; a request loads it." },
  queued: { tone: "moving", offers: "unload", means: "Waits for memory, or for another model that is being loaded." },
  loading: { tone: "moving", offers: "unload", means: "Its file is being read; requests for it wait." },
  ready: { tone: "good", offers: "unload", means: "" },
  draining: { tone: "moving", offers: "load", means: "Finishes what it does, then gives its memory back." },
  unloading: { tone: "moving", offers: "load", means: "Gives its memory back." },
  failed: { tone: "bad", offers: "load", means: "" },
};
const UNKNOWN_STATE = { tone: "idle", means: "" };
const ACTIONS = { load: "Load", unload: "Unload" };

/** What everybody is told of each model, joined with what only administrators are (`pool`, if this is one). */
export function joined(listed = [], pool) {
  const models = new Map(listed.map((model) => [model.id, model.edgellm]));
  for (const { id, edgellm } of pool?.data ?? []) models.set(id, { ...models.get(id), ...edgellm });
  return [...models].map(([id, about]) => ({ id, ...about }));
}

/** Whether a model can be asked in the chat, as far as is known: what a file is for that cannot be read is not. */
export function canChat({ kind, state }) {
  return kind === undefined ? state !== "failed" : kind !== "embedding";
}

export class ModelList {
  #rows = new Map(); // by the model's id; they stay, so that a button keeps its focus
  #changed; // is called when the server has taken a change

  constructor(changed) {
    this.#changed = changed;
  }

  /** Shows these models; `manages` says whether they may be loaded and unloaded. */
  show(models, reading, manages) {
    const ids = new Set(models.map(({ id }) => id));
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      row.root.remove();
      this.#rows.delete(id);
    }
    models.forEach((model, place) => {
      const row = this.#row(model.id);
      row.show(model, reading, manages);
      const list = byId("models");
      if (list.children[place] !== row.root) list.insertBefore(row.root, list.children[place] ?? null);
    });
  }

  #row(id) {
    if (!this.#rows.has(id)) this.#rows.set(id, new ModelRow(id, this.#changed));
    return this.#rows.get(id);
  }
}

class ModelRow {
  #id;
  #changed;
  #isAsking = false;
  #state;

  constructor(id, changed) {
    this.#id = id;
    this.#changed = changed;
    this.root = make("li", "model");
    this.state = make("span", "tag");
    this.tags = make("span", "tags");
    this.button = make("button", "plain");
    this.button.type = "button";
    this.button.addEventListener("click", (event) => {
      // The second click of two would undo the first.
      if (event.detail < 2) this.#ask(this.button.dataset.action);
    });
    const head = make("div", "model-head");
    head.append(make("strong", "", id), this.state, this.tags, this.button);
    this.facts = make("p", "quiet");
    this.memory = make("p", "quiet memory");
    this.names = make("p", "quiet");
    this.why = make("p", "why");
    this.problem = make("p", "problem");
    this.problem.setAttribute("role", "alert");
    this.use = make("div");
    this.root.append(head, this.why, this.facts, this.memory, this.names, this.use, this.problem);
  }

  show(model, reading, manages) {
    const { tone, means, offers } = STATES[model.state] ?? UNKNOWN_STATE;
    if (this.#state !== model.state) setText(this.problem, "");
    this.#state = model.state;
    this.root.dataset.state = model.state;
    this.state.className = `tag ${tone}`;
    setText(this.state, model.state ?? "unknown");
    setText(this.tags, [model.default && "default", model.pinned && "pinned"].filter(Boolean).join(" · "));
    const read = model.loaded_percent === undefined ? "" : ` ${model.loaded_percent} % of its file is read.`;
    setText(this.why, model.state === "failed" ? failure(model) : means + read);
    setText(this.facts, [...properties(model), ...loads(model.id, reading)].join(" · "));
    setText(this.memory, model.memory ? taken(model) : "");
    setText(this.names, relations(model));
    const used = model.state === "ready" ? reading?.sum("edgellm_kv_cache_usage_ratio", { model: model.id }) : undefined;
    this.use.replaceChildren(...(used === undefined ? [] : [meter("context in use", used)]));
    this.#offer(manages && !(offers === "unload" && model.pinned) ? offers : undefined);
  }

  #offer(action) {
    this.button.hidden = action === undefined;
    if (action === undefined) return;
    this.button.dataset.action = action;
    setText(this.button, ACTIONS[action]);
    this.button.setAttribute("aria-label", `${ACTIONS[action]} ${this.#id}`);
  }

  async #ask(action) {
    if (this.#isAsking) return;
    this.#isAsking = true;
    setText(this.problem, "");
    this.root.setAttribute("aria-busy", "true");
    const problem = await changeModel(action, this.#id);
    this.root.removeAttribute("aria-busy");
    this.#isAsking = false;
    if (problem) setText(this.problem, problem);
    else this.#changed();
  }
}

function failure({ reason, again_in_seconds: again }) {
  if (reason === undefined) return "It cannot answer; the server's log says why.";
  const next = again > 0 ? `It can be tried again in ${number(again)} s; “${ACTIONS.load}” tries it now.` : "The next request tries it again.";
  return `${/[.!?]$/.test(reason) ? reason : `${reason}.`} ${next}`;
}

function properties(about) {
  return [
    about.kind === "embedding" ? `embedding${about.dimensions ? `, ${number(about.dimensions)} dimensions` : ""}` : about.kind,
    about.architecture,
    about.quantization,
    about.parameters && `${compact(about.parameters)} parameters`,
    about.memory ? undefined : about.size && bytes(about.size),
    about.context && `context of ${number(about.context)} tokens`,
  ].filter(Boolean);
}

/** How often it was loaded, and how long that takes. */
function loads(model, reading) {
  const [count, sum] = ["count", "sum"].map((part) => reading?.sum(`edgellm_model_load_seconds_${part}`, { model }));
  const failed = reading?.sum("edgellm_model_loads_total", { model, result: "failed" });
  return [
    count && `loaded ${count === 1 ? "once" : `${number(count)} times`}, in ${seconds(sum / count)}${count === 1 ? "" : " on average"}`,
    failed && `failed ${failed === 1 ? "once" : `${number(failed)} times`}`,
  ].filter(Boolean);
}

function taken({ state, memory }) {
  const kinds = [["weights", memory.weights], ["KV cache", memory.kv_cache], ["compute", memory.compute]];
  const total = kinds.reduce((sum, [, value]) => sum + value, 0);
  if (total === 0) return "";
  const parts = kinds.filter(([, value]) => value > 0).map(([name, value]) => unbroken(`${name} ${bytes(value)}`));
  return `${state === "queued" || state === "loading" ? "Going to take" : "Takes"} ${unbroken(bytes(total))}: ${parts.join(", ")}`;
}

function relations({ aliases = [], siblings = [] }) {
  return [
    aliases.length && `Also called ${aliases.join(", ")}`,
    siblings.length && `Siblings when something is short: ${siblings.join(", ")}`,
  ].filter(Boolean).join(" · ");
}

/** Words that stay on one line. */
function unbroken(text) {
  return text.replaceAll(" ", "\u00a0");
}

function compact(value) {
  return value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 2 });
}
