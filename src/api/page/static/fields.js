// One control for one property of a JSON Schema. `read` gives undefined for what the request leaves out.

import { h } from "./dom.js";
import { title } from "./words.js";

const LONG_TEXT = 300;
const MOST_STEPS_OF_A_SLIDER = 200;

/** A schema without "or null", which is written as a choice of two (FastAPI) or as two types. */
export function plain(schema) {
  const choice = schema.anyOf?.find((each) => each.type !== "null");
  const { anyOf, ...rest } = schema;
  const one = choice ? { ...choice, ...rest } : schema;
  return Array.isArray(one.type) ? { ...one, type: one.type.find((each) => each !== "null") } : one;
}

/** Whether there is nothing to choose: the bounds allow the default only. */
export const unused = (schema) => schema.maxLength === 0 || (schema.minimum !== undefined && schema.minimum === schema.maximum);

/** `{name, element, read, write, complain}`; null where this page has no control for the schema. */
export function field(name, schema, { label = title(name), rows = 2 } = {}) {
  const control = controlFor(name, schema, rows);
  if (!control) return null;
  const id = `field-${name}`;
  const problem = h("p", { id: `${id}-problem`, className: "problem", hidden: true });
  control.input.id = id;
  control.input.setAttribute("aria-describedby", problem.id);
  if (schema.description) control.input.setAttribute("aria-description", schema.description);
  const hint = hintOf(schema);
  const heading = h("label", { htmlFor: id }, label, hint && h("span", { className: "dim" }, ` ${hint}`));
  const complain = (message) => {
    problem.hidden = !message;
    problem.textContent = message ?? "";
    message ? control.input.setAttribute("aria-invalid", "true") : control.input.removeAttribute("aria-invalid");
  };
  return {
    name,
    element: h("div", { className: `field ${control.kind}`, title: schema.description ?? "" }, heading, control.element ?? control.input, problem),
    read: control.read,
    write: control.write,
    complain,
    focus: (options) => control.input.focus(options),
  };
}

function controlFor(name, schema, rows) {
  if (schema.enum) return choice(schema);
  if (schema.type === "boolean") return tick(schema);
  if (schema.type === "integer" || schema.type === "number") return number(name, schema);
  if (schema.type === "string") return text(schema, rows);
  if (schema.type === "object" && schema.patternProperties) return pairs();
  return null;
}

function hintOf(schema) {
  const { minimum, maximum } = schema;
  if (minimum === undefined || maximum === undefined) return null;
  return `${minimum}–${maximum}`;
}

function text(schema, rows) {
  const long = (schema.maxLength ?? 0) > LONG_TEXT;
  const input = h(long ? "textarea" : "input", { rows: long ? rows : null, dir: "auto", maxLength: schema.maxLength ?? null, value: schema.default ?? "", placeholder: long ? "" : "default" });
  return {
    kind: long ? "wide" : "text",
    input,
    read: () => (input.value === (schema.default ?? "") ? undefined : input.value),
    write: (value) => { input.value = value ?? ""; },
  };
}

function number(name, schema) {
  const whole = schema.type === "integer";
  const step = schema.multipleOf ?? (whole ? 1 : "any");
  const { minimum: min, maximum: max } = schema;
  const input = h("input", { type: "number", inputMode: whole ? "numeric" : "decimal", min, max, step, value: schema.default ?? "", placeholder: name === "seed" ? "random" : "default" });
  const read = () => (input.value === "" || Number(input.value) === schema.default ? undefined : Number(input.value));
  if (schema.multipleOf || !(max - min <= MOST_STEPS_OF_A_SLIDER) || schema.default === undefined) {
    return { kind: "number", input, read, write: (value) => { input.value = value ?? ""; } };
  }
  const slider = h("input", { type: "range", min, max, step: whole ? 1 : 0.5, "aria-label": `${title(name)}, slider` });
  slider.value = input.value;
  slider.addEventListener("input", () => { input.value = slider.value; });
  input.addEventListener("input", () => { slider.value = input.value; });
  const write = (value) => { input.value = value ?? schema.default; slider.value = input.value; };
  return { kind: "slider", input, element: h("div", { className: "pair" }, slider, input), read, write };
}

function choice(schema) {
  const none = "default";
  const options = schema.enum.map((value) => h("option", { value: value ?? "", selected: value === schema.default }, value ?? none));
  if (schema.default === undefined && !schema.enum.includes(null)) options.unshift(h("option", { value: "", selected: true }, none));
  const input = h("select", {}, options);
  const usual = input.value;
  return {
    kind: "choice",
    input,
    // What the schema lists may be numbers, and an option holds a text. Options may be added.
    read: () => (input.value === usual || input.value === "" ? undefined : schema.enum.find((value) => String(value) === input.value) ?? input.value),
    write: (value) => { input.value = value ?? usual; },
  };
}

function tick(schema) {
  const input = h("input", { type: "checkbox", checked: schema.default ?? false });
  return {
    kind: "tick",
    input,
    read: () => (input.checked === (schema.default ?? false) ? undefined : input.checked),
    write: (value) => { input.checked = value ?? schema.default ?? false; },
  };
}

// A name, and the value behind `=`: as it is up to the next comma, or quoted as in JSON.
const PAIR = /([^,=]*)(?:=\s*("(?:[^"\\]|\\.)*"(?=\s*(?:,|$))|[^,]*))?(?:\s*,|$)/g;
const NEEDS_QUOTES = /[",\p{Cc}]|^\s|\s$/u;

/** Names with values, as `project=winter, client="Ada, London"`. */
function pairs() {
  const input = h("input", { placeholder: "project=winter, client=ada" });
  const read = () => {
    const found = [...input.value.matchAll(PAIR)].filter(([whole]) => whole.replace(",", "").trim());
    return found.length ? Object.fromEntries(found.map(([, name, value = ""]) => [name.trim(), unquoted(value)])) : undefined;
  };
  return { kind: "text", input, read, write: (value) => { input.value = Object.entries(value ?? {}).map(([k, v]) => `${k}=${NEEDS_QUOTES.test(v) ? JSON.stringify(v) : v}`).join(", "); } };
}

function unquoted(text) {
  if (!/^".*"$/s.test(text)) return text.trim();
  try {
    return JSON.parse(text);
  } catch {
    return text.trim(); // quotes of its own
  }
}
