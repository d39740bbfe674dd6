// A server of the caller's that is told of the job: its address, and of what.

import { h } from "./dom.js";
import { field, plain } from "./fields.js";

/** The control for the schema of `webhook`. */
export function webhookField(schema) {
  const { url, events } = schema.properties;
  const control = field("webhook", { type: "string", description: plain(url).description }, { label: "Webhook" });
  const input = control.element.querySelector("input");
  Object.assign(input, { type: "url", placeholder: url.examples?.[0] ?? "" });
  const usual = events.default ?? [];
  const boxes = events.items.enum.map((value) => h("input", { type: "checkbox", value, checked: usual.includes(value) }));
  const choice = h("fieldset", { title: events.description ?? "", hidden: true },
    h("legend", { className: "hidden-text" }, "Webhook is sent for"),
    boxes.map((box) => h("label", {}, box, ` ${box.value}`)));
  const show = () => { choice.hidden = !input.value.trim(); };
  input.addEventListener("input", show);
  control.element.append(choice);
  control.element.classList.add("wide");
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  control.read = () => {
    if (!input.value.trim()) return undefined;
    const same = chosen().length === usual.length && chosen().every((value) => usual.includes(value));
    return { url: input.value.trim(), ...(!same && { events: chosen() }) };
  };
  control.write = (value) => {
    input.value = value?.url ?? "";
    for (const box of boxes) box.checked = (value?.events ?? usual).includes(box.value);
    show();
  };
  return control;
}
