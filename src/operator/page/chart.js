// A line chart of the last minutes as plain SVG: it takes its colours from the style sheet, light or dark,
// stays sharp at any size, and is a dozen elements that tests and screen readers can look into.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { top: 8, right: 6, bottom: 20, left: 56 };
const LEAST_SECONDS = 60; // shown at first; it grows with what there is

/**
 * `options`: `title`; `lines`, each `{ name, kind }`, where a kind is a class of the style sheet ("first",
 * "second" or "limit"); `format(value)`; `step(rough)`, a round number not below; `seconds` shown at most; `gap`, the seconds without a value that break a line.
 */
export class Chart {
  constructor(template, options) {
    this.options = options;
    this.points = []; // { at, values }, oldest first; an unknown value is undefined
    this.root = template.content.firstElementChild.cloneNode(true);
    this.root.querySelector("h3").textContent = options.title;
    this.number = this.root.querySelector(".number");
    this.detail = this.root.querySelector(".detail");
    this.legend = this.root.querySelector(".legend");
    this.plot = this.root.querySelector(".plot");
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "img");
    this.cursor = undefined; // seconds, where somebody points at
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.plot.addEventListener("pointermove", (event) => this.#point(event));
    this.plot.addEventListener("pointerdown", (event) => this.#point(event));
    for (const end of ["pointerleave", "blur"]) this.plot.addEventListener(end, () => this.#pointAt(undefined));
    this.plot.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Adds the values of a moment, one a line. */
  add(at, values) {
    this.points.push({ at, values });
    while (this.points[0].at < at - this.options.seconds) this.points.shift();
  }

  /** The words beside the chart: the number that matters, what it is, and the whole for those who cannot see it. */
  say(number, detail) {
    this.number.textContent = number;
    this.detail.textContent = detail;
    this.plot.setAttribute("aria-label", `${this.options.title}: ${number} ${detail.replace(/\.$/, "")}. A chart of what it was before.`);
  }

  /** Whether there is anything to draw; a card without says why in its detail. */
  get empty() {
    return !this.points.some((point) => point.values.some((value) => value !== undefined));
  }

  draw() {
    this.root.classList.toggle("empty", this.empty);
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (this.empty || width === 0) {
      this.plot.replaceChildren();
      this.legend.replaceChildren();
      return;
    }
    const scale = this.#scale(width, height);
    const svg = element("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    svg.append(...this.#grid(scale));
    this.options.lines.forEach((line, index) => svg.append(...this.#line(line, index, scale)));
    const picked = this.#picked();
    if (picked) svg.append(element("line", { class: "cursor", x1: scale.x(picked.at), x2: scale.x(picked.at), y1: MARGIN.top, y2: scale.y(0) }));
    this.plot.replaceChildren(svg);
    this.#writeLegend(picked ?? this.points.at(-1), picked);
  }

  #scale(width, height) {
    const end = this.points.at(-1).at;
    const known = this.points.flatMap((point) => point.values).filter((value) => value !== undefined);
    const most = Math.max(...known, this.options.least ?? 0);
    const step = (this.options.step ?? decimalStep)(most / 3);
    const top = step * Math.max(1, Math.ceil((most * 1.02) / step));
    const span = this.#span();
    return {
      step,
      top,
      span,
      left: MARGIN.left,
      right: width - MARGIN.right,
      x: (at) => width - MARGIN.right - ((end - at) / span) * (width - MARGIN.left - MARGIN.right),
      y: (value) => height - MARGIN.bottom - (value / top) * (height - MARGIN.top - MARGIN.bottom),
    };
  }

  /** Whole minutes that hold all points. */
  #span() {
    const minutes = Math.ceil((this.points.at(-1).at - this.points[0].at) / 60);
    return Math.min(Math.max(minutes * 60, LEAST_SECONDS), this.options.seconds);
  }

  #grid({ step, top, span, left, right, y }) {
    const parts = [];
    for (let value = 0; value <= top * 1.001; value += step) {
      parts.push(element("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }));
      parts.push(element("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, this.options.format(value)));
    }
    parts.push(element("text", { class: "tick", x: left, y: y(0) + 15 }, `${span / 60} min ago`));
    parts.push(element("text", { class: "tick", x: right, y: y(0) + 15, "text-anchor": "end" }, "now"));
    return parts;
  }

  #line({ kind }, index, { x, y }) {
    const parts = [];
    let run = [];
    const finish = () => {
      if (run.length > 1) {
        const path = run.map((point, i) => `${i ? "L" : "M"}${x(point.at).toFixed(1)} ${y(point.values[index]).toFixed(1)}`).join("");
        if (kind === "first") {
          parts.push(element("path", { class: "area", d: `${path}L${x(run.at(-1).at).toFixed(1)} ${y(0)}L${x(run[0].at).toFixed(1)} ${y(0)}Z` }));
        }
        parts.push(element("path", { class: `line ${kind}`, d: path }));
      } else if (run.length === 1) {
        parts.push(element("circle", { class: `point ${kind}`, cx: x(run[0].at), cy: y(run[0].values[index]), r: 2 }));
      }
      run = [];
    };
    for (const point of this.points) {
      if (run.length && point.at - run.at(-1).at > this.options.gap) finish();
      if (point.values[index] !== undefined) run.push(point);
    }
    finish();
    return parts;
  }

  #writeLegend(point, picked) {
    const drawn = this.options.lines.map((line, index) => ({ ...line, index })).filter(({ index }) => this.points.some((one) => one.values[index] !== undefined));
    // One line alone needs no legend: its value is the number above.
    const entries = drawn.length < 2 && !picked ? [] : drawn.map(({ name, kind, index }) => {
      const entry = document.createElement("span");
      entry.className = `entry ${kind}`;
      const value = point.values[index];
      entry.textContent = `${name} ${value === undefined ? "–" : this.options.format(value)}`;
      return entry;
    });
    if (picked) {
      const when = document.createElement("span");
      when.textContent = `${Math.round(this.points.at(-1).at - picked.at)} s ago`;
      entries.push(when);
    }
    this.legend.replaceChildren(...entries);
  }

  #picked() {
    if (this.cursor === undefined) return undefined;
    return this.points.reduce((near, point) => (Math.abs(point.at - this.cursor) < Math.abs(near.at - this.cursor) ? point : near));
  }

  #point(event) {
    if (this.empty) return;
    const box = this.plot.getBoundingClientRect();
    const share = (event.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
    this.#pointAt(this.points.at(-1).at - (1 - share) * this.#span());
  }

  #key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!steps || this.empty) return;
    event.preventDefault();
    const index = this.points.indexOf(this.#picked() ?? this.points.at(-1)) + steps;
    this.#pointAt(this.points[Math.min(Math.max(index, 0), this.points.length - 1)].at);
  }

  #pointAt(at) {
    this.cursor = at;
    this.draw();
  }
}

/** 1, 2 or 5 times a power of ten. */
function decimalStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
}

/** A power of two, for bytes. */
export function binaryStep(rough) {
  return 2 ** Math.ceil(Math.log2(rough || 1));
}

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
