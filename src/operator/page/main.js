// Asks the server every two seconds and shows what it says. Text from the server or its clients goes into the
// page as text, never as HTML.

import { Chart } from "./chart.js";
import { Chat } from "./chat.js";
import { byId, make, meter, setText } from "./dom.js";
import { Login } from "./login.js";
import { showMemory } from "./memory.js";
import { Readings } from "./metrics.js";
import { ModelList, canChat, joined } from "./models.js";
import { PANELS, governor, levelName, newActions, resourceName, silentSensors } from "./panels.js";
import { look, message } from "./server.js";
import { session } from "./session.js";

const EVERY_MS = 2000;
const SHOWN_SECONDS = 300;
const ACTIONS_SHOWN = 5;

const readings = new Readings();
const chat = new Chat();
const login = new Login(() => {
  byId("main").focus({ preventScroll: true });
  wake();
});
const models = new ModelList(() => wake());
const charts = PANELS.map((panel) => {
  const chart = new Chart(byId("chart"), { ...panel, seconds: SHOWN_SECONDS, gap: (EVERY_MS / 1000) * 4 });
  byId("charts").append(chart.root);
  return chart;
});
const actions = []; // { at, action, resource }, newest first
let lastSeen; // when the server answered last, in ms
let wake = () => {}; // ends the pause before the next step

async function step() {
  const { key } = session;
  const seen = await look();
  if (seen.standing.state !== "unreachable") lastSeen = Date.now();
  showStanding(seen.standing);
  // Somebody logged in meanwhile: this was told to who was here before.
  if (key !== session.key) return;
  showAccess(seen);
  if (seen.models) showModels(seen);
  if (seen.pool) showMemory(seen.pool.edgellm, seen.reading);
  if (seen.reading) take(seen.reading);
  document.body.classList.toggle("stale", !seen.reading && !seen.refused.metrics);
}

function take(reading) {
  const before = readings.latest;
  const restarted = readings.add(reading);
  if (before && !restarted) actions.unshift(...newActions(before, reading).map((action) => ({ ...action, at: reading.at })));
  PANELS.forEach((panel, index) => {
    const { values, number: shown, detail } = panel.read(readings);
    charts[index].add(reading.at, values);
    charts[index].say(shown, detail);
    charts[index].draw();
  });
  showGovernor(reading);
  showFacts(reading);
}

function showStanding({ state, title, why }) {
  const status = byId("status");
  const ago = state === "unreachable" && lastSeen ? ` It answered last at ${new Date(lastSeen).toLocaleTimeString()}.` : "";
  // Said anew only when it changes, so that a screen reader is not told every two seconds.
  setText(byId("status-title"), title);
  setText(byId("status-why"), why + ago);
  status.dataset.state = state;
  document.title = state === "ready" ? "edgellm" : `${title} · edgellm`;
}

/** Shows of the page what the server lets this key see, and asks for a key where it wants one. */
function showAccess({ standing, refused }) {
  if (standing.state === "unreachable") return;
  const wanted = [refused.models, refused.metrics].find((answer) => answer?.status === 401);
  const problem = wanted && session.key !== undefined ? message(wanted) : undefined;
  if (problem) {
    session.close();
    chat.clear();
  }
  for (const part of [byId("models-card"), byId("chat"), ...document.querySelectorAll("a[href='#chat']")]) part.hidden = Boolean(refused.models);
  for (const part of [byId("now"), byId("governor")]) part.hidden = Boolean(refused.metrics);
  byId("memory").hidden = Boolean(refused.pool);
  byId("no-metrics").hidden = refused.metrics?.status !== 403;
  document.body.classList.toggle("alone", Boolean(refused.models));
  login.show(Boolean(wanted), problem);
}

function showModels({ models: listed, pool, reading }) {
  const all = joined(listed, pool);
  const known = new Map(all.map((model) => [model.id, model]));
  // Only those that this key may ask.
  chat.offer(listed.map(({ id }) => known.get(id)).filter(canChat));
  models.show(all, reading, pool !== undefined);
}

function showGovernor(reading) {
  const now = governor(reading);
  if (!now) {
    setText(byId("governor-level"), "Not at work");
    setText(byId("governor-why"), "It has not said anything for a minute; the server's log may say why.");
    byId("pressures").replaceChildren();
    return;
  }
  setText(byId("governor-level"), levelName(now.level));
  byId("governor").dataset.level = now.level;
  setText(byId("governor-why"), now.why);
  byId("pressures").replaceChildren(...now.pressures.map(({ resource, value, rehearsed }) => meter(resourceName(resource), value, rehearsed ? "rehearsed" : "")));
  const silent = silentSensors(reading);
  setText(byId("silent"), silent.length ? `Cannot be read: ${silent.join(", ")}. The server's log says why and what to do.` : "");
  byId("actions-title").hidden = actions.length === 0;
  byId("actions").replaceChildren(...actions.slice(0, ACTIONS_SHOWN).map(({ action, resource, at }) => {
    const item = make("li", "", `${action}, for ${resource} `);
    item.append(make("span", "quiet", new Date(at * 1000).toLocaleTimeString()));
    return item;
  }));
}

function showFacts(reading) {
  const version = reading.all("edgellm_build_info")[0]?.labels.version;
  const started = reading.sum("process_start_time_seconds");
  const parts = [];
  if (version) parts.push(`version ${version}`);
  if (started) parts.push(`up ${duration(reading.at - started)}`);
  setText(byId("server-facts"), parts.join(" · "));
}

function duration(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"]];
  const [size, unit] = units.find(([size]) => seconds >= size) ?? [1, "s"];
  return `${Math.floor(Math.max(seconds, 0) / size)} ${unit}`;
}

/** One step after the other, and none while nobody looks. */
async function watch() {
  for (;;) {
    if (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    else {
      await step();
      await new Promise((passed) => {
        wake = passed;
        setTimeout(passed, EVERY_MS);
      });
    }
  }
}

watch();
