// The address after `#` says what is shown. Each view ends when the next one begins.

import { create } from "./create.js";
import { h } from "./dom.js";
import { failure } from "./failure.js";
import { forgetButton } from "./key.js";
import { operate } from "./operate.js";
import { pictures } from "./pictures.js";
import { jobPage } from "./watch.js";

const VIEWS = [
  { pattern: /^#\/create$/, title: "Create", view: create },
  { pattern: /^#\/pictures$/, title: "Pictures", view: pictures },
  { pattern: /^#\/operate$/, title: "Operate", view: operate },
  { pattern: /^#\/jobs\/([0-9a-f-]{36})$/, title: "Job", view: jobPage },
];
const main = document.getElementById("main");
let ending = new AbortController();

async function show(moved) {
  const hash = location.hash || "#/create";
  if (!hash.startsWith("#/")) return; // the link to the content
  ending.abort();
  const { signal } = (ending = new AbortController());
  const found = VIEWS.find((each) => each.pattern.test(hash)) ?? VIEWS[0];
  document.title = `${found.title} · Dream Forge`;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.hash === hash;
    here ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  main.replaceChildren(h("p", { className: "skeleton line", "aria-hidden": "true" }));
  try {
    const view = await found.view(signal, ...(hash.match(found.pattern)?.slice(1) ?? []));
    if (signal.aborted) return;
    main.replaceChildren(view);
    if (moved) main.focus();
  } catch (error) {
    if (signal.aborted) return;
    if (!error.code) throw error;
    main.replaceChildren(h("h1", {}, found.title), failure(error, () => show(false)));
  }
}

document.querySelector(".bar").append(forgetButton());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => show(true));
show(false);
