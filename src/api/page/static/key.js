// The API key: asked for when the API wants one, kept for this tab.

import { h, open } from "./dom.js";

const NAME = "dreamforge.key";
const button = h("button", { type: "button", className: "quiet", onclick: () => forget() }, "Forget key");
let current = null;
let asking = null;
let declined = -Infinity; // when the user last gave none

try {
  current = sessionStorage.getItem(NAME);
} catch {
  // A browser that keeps nothing: the key lives as long as the page.
}

button.hidden = !current;

export const key = () => current;

/** It is shown while there is a key, and takes it away. */
export const forgetButton = () => button;

/**
 * Ask for a key, unless another one than `refused` is here; false when the user gives none, and where none was
 * given since the request `began`: a view makes several at once.
 */
export function askForKey(message, refused, began) {
  if (current !== refused) return Promise.resolve(true);
  if (declined > began) return Promise.resolve(false);
  asking ??= ask(message).finally(() => {
    asking = null;
  });
  return asking;
}

function ask(message) {
  return new Promise((resolve) => {
    const input = h("input", { id: "key", type: "password", required: true, autocomplete: "off", spellcheck: false, "aria-describedby": current && "key-problem" });
    const dialog = h(
      "dialog",
      { className: "small", "aria-labelledby": "key-title", onclose: () => finish(dialog.returnValue === "use") },
      h("form", { method: "dialog" },
        h("h2", { id: "key-title" }, "API key"),
        h("p", {}, "This API answers to those who have a key; its operator makes them. Yours stays in this tab and is gone with it."),
        current && h("p", { id: "key-problem", className: "problem" }, message),
        h("label", { htmlFor: "key" }, "Key"),
        input,
        h("p", { className: "actions" },
          h("button", { type: "button", onclick: () => dialog.close("") }, "Not now"),
          h("button", { value: "use", className: "primary" }, "Use this key"))),
    );
    const finish = (used) => {
      if (used) keep(input.value.trim());
      else declined = performance.now();
      resolve(used);
    };
    open(dialog);
  });
}

function keep(value) {
  current = value;
  try {
    sessionStorage.setItem(NAME, value);
  } catch {
    // As above.
  }
  button.hidden = false;
}

function forget() {
  try {
    sessionStorage.removeItem(NAME);
  } catch {
    // There is none.
  }
  location.reload(); // what was read with the key goes as well
}
