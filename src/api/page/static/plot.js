// A small plot of bars, one for each value. What matters most is in its heading, all values in its text.

import { h, svg } from "./dom.js";

const WIDTH = 168;
const HEIGHT = 40;

/**
 * `rows` are `{label, value, text}`, oldest first, `text` says the value; `headline` and `about` are
 * the heading: by default what the last value is, today.
 */
export function bars(name, rows, { headline = rows[rows.length - 1].text, about = "today" } = {}) {
  const most = Math.max(...rows.map((row) => row.value), 0);
  const step = WIDTH / rows.length;
  const drawn = rows.map(({ label, value, text }, index) => {
    const height = most ? Math.max(value > 0 ? 1.5 : 0.75, (value / most) * HEIGHT) : 0.75;
    const title = svg("title", {});
    title.textContent = `${label}: ${text}`;
    return svg("rect", { class: value > 0 ? "bar-of-plot" : "bar-of-plot none", x: index * step + 1, y: HEIGHT - height, width: step - 2, height, rx: 1 }, title);
  });
  const summary = `${name}: ${rows.map(({ label, text }) => `${label} ${text}`).join(", ")}`;
  return h("figure", { className: "panel plot" },
    h("figcaption", {}, h("span", { className: "dim" }, name), h("strong", {}, headline), h("span", { className: "dim small-text" }, about)),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": summary, preserveAspectRatio: "none" }, ...drawn));
}
