// What all parts of the page build their elements with. Text stays text: nothing here makes HTML of it.

export const byId = (id) => document.getElementById(id);

export function make(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** Changes nothing where the text is the same, so that screen readers say only what is new. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A share of a whole, as a bar and in words; one that is not known has no bar. */
export function meter(name, value, note = "") {
  const row = make("div", "meter");
  const label = make("span", "name", name);
  if (note) label.append(" ", make("span", "note-tag", note));
  if (value === undefined) {
    row.append(label, make("span", "unknown", "not measured"));
    return row;
  }
  const bar = make("div", `bar ${value >= 0.9 ? "high" : value >= 0.8 ? "raised" : ""}`);
  bar.append(part(Math.min(Math.max(value, 0), 1)));
  row.append(label, bar, make("span", "share", `${Math.round(value * 100)} %`));
  return row;
}

/** A part of a bar, as wide as its share of the whole. */
export function part(share, className = "") {
  const made = make("span", className);
  made.style.width = `${share * 100}%`;
  return made;
}
