// The chat box: streams an answer, shows its tokens as they come, and says what it cost.

import { byId, make, setText } from "./dom.js";
import { number, seconds } from "./panels.js";
import { askMetrics, refusal } from "./server.js";
import { credentials, session } from "./session.js";

const LEAST_SECONDS = 0.2; // shorter times are no measure of a speed

export class Chat {
  #turns = []; // what was said so far, as the API wants it
  #offered; // models to choose from
  #running; // the AbortController of the answer under way

  constructor() {
    this.log = byId("chat-log");
    this.question = byId("chat-question");
    this.model = byId("chat-model");
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask(this.question.value.trim());
    });
    this.question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("chat-form").requestSubmit();
    });
    byId("chat-stop").addEventListener("click", () => this.#running?.abort());
    byId("chat-clear").addEventListener("click", () => {
      this.clear();
      this.question.focus();
    });
    byId("chat-suggestions").addEventListener("click", (event) => {
      if (event.target.matches("button")) this.#ask(event.target.textContent);
    });
  }

  /** Offers these models, of which one that answers at once is chosen first; the choice is shown only where there is one. */
  offer(models) {
    const ids = models.map(({ id }) => id);
    if (ids.join("\n") === this.#offered?.join("\n")) return;
    this.#offered = ids;
    const first = models.find(({ state }) => state === "ready") ?? models[0];
    const chosen = ids.includes(this.model.value) ? this.model.value : first?.id;
    this.model.replaceChildren(...ids.map((id) => new Option(id, id, false, id === chosen)));
    byId("chat-model-row").hidden = ids.length < 2;
    byId("chat-none").hidden = ids.length > 0;
    for (const control of document.querySelectorAll("#chat-send, #chat-question, #chat-suggestions button")) control.disabled = ids.length === 0;
  }

  async #ask(text) {
    if (!text || this.#running) return;
    this.question.value = "";
    this.#running = new AbortController();
    this.#busy(true);
    const turn = { role: "user", content: text };
    this.#write("question", text);
    const entry = this.#write("answer", "");
    try {
      const before = await askMetrics();
      const answer = await this.#stream(turn, entry.text);
      this.#turns.push(turn, { role: "assistant", content: answer.text });
      const joules = energy(answer, this.model.value, before, await askMetrics());
      const parts = cost(answer, joules, before !== undefined);
      entry.cost.replaceChildren(...parts.flatMap((part, index) => [index ? " · " : "", whole(part)]));
    } catch (error) {
      entry.cost.textContent = error.name === "AbortError" ? "Stopped." : error.message;
      entry.root.classList.toggle("failed", error.name !== "AbortError");
    } finally {
      this.#running = undefined;
      this.#wait("");
      this.#busy(false);
      this.log.scrollTop = this.log.scrollHeight;
    }
  }

  async #stream(turn, shown) {
    const system = byId("chat-system").value.trim();
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...this.#turns, turn];
    const body = { messages, stream: true, stream_options: { include_usage: true } };
    if (this.model.value) body.model = this.model.value;
    const began = performance.now();
    const response = await this.#post(body);
    const answer = { text: "", usage: undefined, first: undefined, whole: undefined };
    for await (const { comment, data } of events(response)) {
      if (comment && answer.first === undefined) this.#wait(comment);
      if (data === undefined) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const delta = chunk.choices?.[0]?.delta;
      // A call of a tool is shown as the model wrote it; none is offered here, but a model may try.
      const text = delta?.content ?? delta?.tool_calls?.map((call) => call.function?.arguments ?? "").join("") ?? "";
      if (text) {
        answer.first ??= (performance.now() - began) / 1000;
        this.#wait("");
        answer.text += text;
        shown.append(text);
        this.log.scrollTop = this.log.scrollHeight;
      }
      answer.usage = chunk.usage ?? answer.usage;
    }
    answer.whole = (performance.now() - began) / 1000;
    return answer;
  }

  async #post(body) {
    let response;
    try {
      response = await fetch("v1/chat/completions", {
        method: "POST",
        headers: { "content-type": "application/json", ...credentials(session.key) },
        body: JSON.stringify(body),
        signal: this.#running.signal,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server cannot be reached.");
    }
    if (response.ok) return response;
    const failure = await response.json().then((answer) => answer.error, () => undefined);
    const later = response.headers.get("retry-after");
    const said = refusal(failure?.code) ?? failure?.message ?? `The server answered with status ${response.status}.`;
    throw new Error(later ? `${said} Try again in ${later} s.` : said);
  }

  #write(kind, text) {
    const entry = {
      root: make("div", `said ${kind}`, ""),
      text: make("p", "text", text),
      cost: make("p", "cost", ""),
    };
    entry.root.append(make("span", "sr", kind === "question" ? "You: " : "Answer: "), entry.text);
    if (kind === "answer") entry.root.append(entry.cost);
    this.log.append(entry.root);
    this.log.scrollTop = this.log.scrollHeight;
    return entry;
  }

  /** Says what an answer waits for, as the server does; not in the log, which is silent while an answer comes. */
  #wait(what) {
    setText(byId("chat-waiting"), what && `${what[0].toUpperCase()}${what.slice(1)} …`);
  }

  #busy(busy) {
    // Read aloud at the end, not token by token.
    this.log.setAttribute("aria-busy", String(busy));
    this.log.classList.toggle("busy", busy);
    byId("chat-send").hidden = busy;
    byId("chat-stop").hidden = !busy;
    byId("chat-suggestions").hidden = busy || this.#turns.length > 0;
  }

  /** Forgets the conversation. */
  clear() {
    this.#running?.abort();
    this.#turns = [];
    this.log.replaceChildren();
    byId("chat-suggestions").hidden = false;
  }
}

/** A response's server-sent events up to `[DONE]`: each has `data`, or is a `comment` that says what the answer waits for. */
async function* events(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error("The connection broke off before the answer was complete.");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith(":")) yield { comment: line.slice(":".length).trim() };
        if (!line.startsWith("data:")) continue;
        const data = line.slice("data:".length).trim();
        if (data === "[DONE]") return;
        yield { data };
      }
    }
  } catch (error) {
    throw error instanceof TypeError ? new Error("The connection broke off before the answer was complete.") : error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Joules of this answer: as its usage says, or what the model's meter counted if it counted this answer alone. */
function energy({ usage }, model, before, after) {
  const told = usage?.edgellm?.energy_joules;
  if (typeof told === "number") return told;
  const grown = (what) => {
    const name = `edgellm_request_energy_joules_${what}`;
    const now = after?.sum(name, { model });
    return now === undefined ? undefined : now - (before?.sum(name, { model }) ?? 0);
  };
  return before && grown("count") === 1 ? grown("sum") : undefined;
}

/** What an answer cost, in parts; `metered` says whether the server's meters could be read. */
function cost({ usage, first, whole }, joules, metered) {
  const tokens = usage?.completion_tokens;
  const parts = [];
  if (tokens !== undefined) parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  parts.push(`${seconds(whole)}`);
  if (first !== undefined) parts.push(`first after ${seconds(first)}`);
  if (tokens > 1) {
    // Tokens that came at once, to a browser that was busy, say nothing about how fast they were made.
    const since = whole - first >= LEAST_SECONDS ? first : 0;
    parts.push(`${number((since ? tokens - 1 : tokens) / (whole - since))} tokens/s`);
  }
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    parts.push(`prompt ${usage.prompt_tokens}${cached ? ` (${cached} cached)` : ""}`);
  }
  if (joules !== undefined) parts.push(`${joules.toLocaleString("en", { maximumSignificantDigits: 2 })} J`);
  else if (metered) parts.push("energy not measured");
  return parts;
}

/** Words that stay on one line. */
function whole(text) {
  return make("span", "whole", text);
}
