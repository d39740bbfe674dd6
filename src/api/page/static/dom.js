// Elements. Text is always text: nothing that a job or a server says is read as HTML.

/** An element with attributes, listeners (`onclick`) and children; null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children.flat().filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

/** The same for a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !["list", "form", "role", "width", "height"].includes(name) && element.namespaceURI.endsWith("xhtml")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
}

/** Text in which `this` is set as code. */
export function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

/** Say it to those who do not see the page change: in the topmost dialog, since all below it is inert. */
export function announce(text) {
  const place = [...document.querySelectorAll("dialog[open] > [role=status]")].at(-1) ?? document.getElementById("status");
  place.textContent = place.textContent === text ? `${text}\u00a0` : text; // the same text is not read out twice
}

/** Scroll there, without a movement where none is wanted. */
export function reveal(element) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "nearest", behavior: still ? "instant" : "smooth" });
}

/** Run `work` every `seconds` while the page is in sight, until `signal` ends it. */
export function repeat(seconds, signal, work) {
  const run = () => document.hidden || work();
  const timer = setInterval(run, seconds * 1000);
  document.addEventListener("visibilitychange", run, { signal });
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** A dialog that ends with its closing, and gives the focus back. */
export function open(dialog) {
  dialog.append(h("p", { className: "hidden-text", role: "status" }));
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
  return dialog;
}

/** Ask before something is lost; resolves to whether it may go. */
export function confirm(question, verb) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { className: "small", "aria-label": question, onclose: () => resolve(dialog.returnValue === "yes") },
      h("form", { method: "dialog" },
        h("p", {}, question),
        h("p", { className: "actions" },
          h("button", { value: "no" }, "Keep it"),
          h("button", { value: "yes", className: "danger" }, verb))),
    );
    open(dialog);
  });
}
