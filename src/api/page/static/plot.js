// A small plot of bars, one for each value. Its newest value is in its heading, all of them in its text.

import { h, svg } from "./dom.js";

const WIDTH = 168;
const HEIGHT = 40;

/** `rows` are `{label, value}`, oldest first; `words` says a value, `newest` what the last one is. */
export function bars(name, rows, words, newest = "today") {
  const most = Math.max(...rows.map((row) => row.value), 0);
  const step = WIDTH / rows.length;
  const drawn = rows.map(({ label, value }, index) => {
    const height = most ? Math.max(value > 0 ? 1.5 : 0.75, (value / most) * HEIGHT) : 0.75;
    const title = svg("title", {});
    title.textContent = `${label}: ${words(value)}`;
    return svg("rect", { class: value > 0 ? "bar-of-plot" : "bar-of-plot none", x: index * step + 1, y: HEIGHT - height, width: step - 2, height, rx: 1 }, title);
  });
  const summary = `${name}: ${rows.map((row) => `${row.label} ${words(row.value)}`).join(", ")}`;
  const last = rows[rows.length - 1];
  return h("figure", { className: "panel plot" },
    h("figcaption", {}, h("span", { className: "dim" }, name), h("strong", {}, words(last.value)), h("span", { className: "dim small-text" }, newest)),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": summary, preserveAspectRatio: "none" }, ...drawn));
}
