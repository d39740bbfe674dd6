// LoRAs that fit the chosen model, picked from a list, each with how strongly it is added.

import { announce, h } from "./dom.js";

const STEP = 0.05;

/** The control for `loras` of a request. `scale` is the schema of their strength, `fitting` are models. */
export function loraChoice(schema, scale, fitting) {
  const most = schema.maxItems ?? Infinity;
  const chosen = []; // {id, strength}: name@version, and the input of its strength
  const problem = h("p", { id: "field-loras-problem", className: "problem", hidden: true });
  const select = h("select", { id: "field-loras", "aria-describedby": problem.id, oninput: () => pick() });
  const list = h("ul", { className: "chosen" });
  const element = h("div", { className: "field wide", title: schema.description ?? "" },
    h("label", { htmlFor: select.id }, "LoRAs"), select, list, problem);

  const pick = () => {
    const id = select.value;
    add(id, scale.default ?? 1);
    announce(`${id} added`);
  };
  const add = (id, strength) => {
    chosen.push({ id, strength: h("input", { type: "number", inputMode: "decimal", min: scale.minimum, max: scale.maximum, step: STEP, value: strength, "aria-label": `Strength of ${id}` }) });
    draw();
  };
  const remove = (each) => {
    chosen.splice(chosen.indexOf(each), 1);
    draw();
    select.focus();
    announce(`${each.id} removed`);
    element.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const draw = () => {
    const left = fitting.map((lora) => `${lora.name}@${lora.version}`).filter((id) => !chosen.some((each) => each.id === id));
    select.replaceChildren(h("option", { value: "" }, left.length ? "add one" : "none is left"), ...left.map((id) => h("option", { value: id }, id)));
    select.disabled = !left.length || chosen.length >= most;
    list.replaceChildren(...chosen.map((each) => h("li", {},
      h("span", { className: "name" }, each.id),
      each.strength,
      h("button", { type: "button", className: "quiet", "aria-label": `Remove ${each.id}`, onclick: () => remove(each) }, "Remove"))));
    element.hidden = !fitting.length && !chosen.length;
  };
  draw();
  return {
    name: "loras",
    element,
    read: () => (chosen.length ? chosen.map(({ id, strength }) => ({ model_id: id, ...(strength.value !== "" && { scale: Number(strength.value) }) })) : undefined),
    write: (loras) => {
      chosen.length = 0;
      for (const { model_id: id, scale: strength } of loras) add(id, strength ?? scale.default ?? 1);
      draw();
    },
    complain: (message) => {
      problem.hidden = !message;
      problem.textContent = message ?? "";
      message ? select.setAttribute("aria-invalid", "true") : select.removeAttribute("aria-invalid");
    },
    focus: (options) => select.focus(options),
  };
}
