// The form. What it asks is drawn from the chosen model's schema, and from the API's own description.

import { createJob, description, get } from "./api.js";
import { h, reveal } from "./dom.js";
import { latest, onEdit, remember } from "./draft.js";
import { enlargeChoice, usableUpscalers } from "./enlarge.js";
import { failure } from "./failure.js";
import { field, plain, unused } from "./fields.js";
import { loraChoice } from "./loras.js";
import { snippets } from "./snippets.js";
import { StartPicture } from "./start_picture.js";
import { watch } from "./watch.js";
import { webhookField } from "./webhook.js";

// In this order, before what else there is; those of the second line are folded away.
const FIRST = ["width", "height", "steps", "guidance", "count", "seed"];
const OWN_CONTROL = ["type", "prompt", "negative_prompt", "model_id", "image", "images", "mask", "mask_rule", "strength", "loras"];

export async function create(signal) {
  const [{ models }, document_] = await Promise.all([get("v1/models", signal), description()]);
  const heading = h("h1", { className: "hidden-text" }, "Create");
  if (!models.some(draws)) return h("div", {}, heading, noModel());
  const result = h("section", { className: "result", "aria-label": "The picture" }, nothingYet());
  const form = new Form(models, document_, result, signal);
  return h("div", { className: "create" }, heading, form.element, result);
}

const draws = (model) => model.enabled && model.capabilities.some((each) => each === "generate" || each === "edit");

class Form {
  constructor(models, document_, result, signal) {
    this.loras = models.filter((model) => model.enabled && model.kind === "lora");
    this.upscalers = usableUpscalers(models);
    this.result = result;
    this.signal = signal;
    this.watching = null;
    this.common = document_.components.schemas.CreateJob.properties;
    this.schemas = document_.components.schemas;
    const draft = latest() ?? {};
    this.prompt = field("prompt", plain(this.common.prompt), { label: "What to draw", rows: 3 });
    this.model = modelChoice(models.filter(draws), draft.model_id);
    this.start = new StartPicture(() => this.changed(), signal);
    this.fields = h("div", { className: "fields" });
    this.more = h("div", { className: "fields" });
    this.problem = h("div", {});
    this.button = h("button", { className: "primary large" }, "Draw");
    this.program = snippets();
    this.element = h("form", { className: "panel form", noValidate: true, onsubmit: (event) => this.submit(event), oninput: () => this.changed(), onkeydown: (event) => this.typed(event) },
      this.prompt.element,
      this.start.element,
      h("p", { className: "actions" }, this.button, h("span", { className: "dim wide-only" }, "or Ctrl + Enter")),
      this.problem,
      this.model.element,
      this.fields,
      h("details", {}, h("summary", {}, "More"), this.more),
      this.program.element);
    this.model.input.addEventListener("change", () => { this.draw(this.values()); this.changed(); });
    this.draw(draft);
    this.changed();
    onEdit(signal, (request) => this.fill(request));
  }

  /** Take over a request, and nothing of what was there before. */
  fill(request) {
    this.start.clear();
    for (const control of this.allControls) control.complain(null);
    this.problem.replaceChildren();
    this.model.choose(request.model_id);
    this.prompt.write(request.prompt);
    this.draw(request);
    this.changed();
    reveal(this.element);
    this.prompt.focus({ preventScroll: true });
  }

  /** The controls for the model's parameters, with these values where they are still allowed. */
  draw(values) {
    const own = this.model.chosen().parameters_schema.properties ?? {};
    const properties = { ...this.common, ...own };
    const names = [...FIRST, ...Object.keys(properties)].filter((name, index, all) => all.indexOf(name) === index && name in properties && !OWN_CONTROL.includes(name));
    this.controls = [this.prompt];
    this.fields.replaceChildren();
    this.more.replaceChildren();
    const negative = plain(properties.negative_prompt);
    if (!unused(negative)) this.add("negative_prompt", negative, this.fields, { label: "What to avoid", rows: 1 });
    for (const name of names) {
      const schema = { description: this.common[name]?.description, ...plain(properties[name]) };
      if (unused(schema)) continue;
      this.add(name, schema, FIRST.includes(name) ? this.fields : this.more);
    }
    this.addLoras();
    this.addEnlarging();
    this.addWebhook();
    this.start.allow(own);
    for (const control of this.controls) if (values[control.name] !== undefined) control.write(values[control.name]);
    this.start.write(values);
  }

  add(name, schema, place, options) {
    const control = field(name, schema, options);
    if (!control) return;
    this.controls.push(control);
    place.append(control.element);
  }

  addLoras() {
    const { kind, capabilities } = this.model.chosen();
    const schema = this.common.loras;
    if (!schema || !capabilities.includes("lora")) return;
    const control = loraChoice(schema, plain(this.schemas.Lora.properties.scale), this.loras.filter((lora) => lora.family === kind));
    this.controls.push(control);
    this.fields.append(control.element);
  }

  addEnlarging() {
    const { chain } = this.common;
    const schema = this.schemas.Upscale;
    if (!chain || !schema) return;
    const control = enlargeChoice(schema, this.upscalers);
    this.controls.push(control);
    this.more.append(control.element);
  }

  addWebhook() {
    const schema = this.schemas.Webhook;
    if (!this.common.webhook || !schema) return;
    const control = webhookField(schema);
    this.controls.push(control);
    this.more.append(control.element);
  }

  /** With those that are no value of the request by themselves. */
  get allControls() {
    return [...this.controls, this.model, this.start];
  }

  values() {
    const named = this.controls.map((control) => [control.name, control.read()]);
    return { ...Object.fromEntries(named.filter(([, value]) => value !== undefined)), ...this.start.read() };
  }

  request() {
    const { name, version } = this.model.chosen();
    return { type: "generate", model_id: `${name}@${version}`, ...this.values() };
  }

  changed() {
    this.program.update({ prompt: "", ...this.request() });
  }

  typed(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.element.requestSubmit();
  }

  async submit(event) {
    event.preventDefault();
    for (const control of this.allControls) control.complain(null);
    this.problem.replaceChildren();
    if (!this.prompt.read()?.trim()) {
      this.prompt.complain("Say what the picture shows.");
      this.prompt.focus();
      return;
    }
    this.button.disabled = true;
    try {
      await this.start.upload(this.signal);
      const request = this.request();
      remember(request);
      this.show(await createJob(request, this.signal));
    } catch (error) {
      if (!this.signal.aborted) this.complain(error);
    } finally {
      this.button.disabled = false;
    }
  }

  /** Show a refusal at the fields that it names, and whole where one of them is not here. */
  complain(error) {
    if (!error.code) throw error;
    const { errors, field: named } = error.details;
    const problems = errors ?? (named ? [{ field: named, message: error.message.replace(`${named}: `, "") }] : []);
    const places = problems.map(({ field: name, message }) => {
      const control = this.controlOf(name);
      control?.element.closest("details")?.setAttribute("open", "");
      control?.complain(message);
      return control;
    });
    if (!places.length || places.includes(null)) this.problem.append(failure(error));
    places.find(Boolean)?.focus();
  }

  /** The control of a field of the request that is in sight, or can be; null where there is none. */
  controlOf(name) {
    if (this.start.has(name)) return this.start;
    const found = [...this.controls, this.model].find((each) => name === each.name || name.startsWith(`${each.name}.`));
    return found && !found.element.hidden ? found : null;
  }

  /** Follow the job beside the form; the one before goes on without being watched. */
  show(jobId) {
    this.watching?.abort();
    this.watching = new AbortController();
    const signal = AbortSignal.any([this.signal, this.watching.signal]);
    this.result.replaceChildren(watch(jobId, signal));
    reveal(this.result);
  }
}

function modelChoice(models, wanted) {
  const label = (model) => `${model.name} ${model.version}${model.installed ? "" : " (on no live worker)"}`;
  const isWanted = (reference) => (model) => [model.id, model.name, `${model.name}@${model.version}`].includes(reference);
  const best = (wanted) => models.find(isWanted(wanted)) ?? models.find((model) => model.installed) ?? models[0];
  const options = models.map((model) => h("option", { value: model.id }, label(model)));
  const problem = h("p", { id: "field-model_id-problem", className: "problem", hidden: true });
  const input = h("select", { id: "field-model_id", "aria-describedby": problem.id, onchange: () => complain(null) }, options);
  const complain = (message) => {
    problem.hidden = !message;
    problem.textContent = message ?? "";
    message ? input.setAttribute("aria-invalid", "true") : input.removeAttribute("aria-invalid");
  };
  /** Another one is chosen where it is not here any more, and that is said. */
  const choose = (reference) => {
    input.value = best(reference).id;
    const lost = reference && !models.some(isWanted(reference));
    complain(lost ? `${reference} is not here any more; this is another model.` : null);
  };
  choose(wanted);
  return {
    name: "model_id",
    input,
    element: h("div", { className: "field choice" }, h("label", { htmlFor: "field-model_id" }, "Model"), input, problem),
    chosen: () => models.find((model) => model.id === input.value),
    choose,
    complain,
    focus: (options_) => input.focus(options_),
  };
}

function nothingYet() {
  return h("div", { className: "empty" },
    h("img", { src: "page/icon.svg", alt: "", width: 48, height: 48 }),
    h("p", {}, "Describe a picture and press ", h("strong", {}, "Draw"), "."),
    h("p", { className: "dim" }, "It appears here while it is made. You may leave: the job goes on, and is under Pictures."));
}

function noModel() {
  return h("div", { className: "empty" },
    h("h2", {}, "No model yet"),
    h("p", {}, "Install one on the worker's host; this page then asks what that model takes."),
    h("pre", { tabIndex: 0 }, "dreamforge model download hf:<repo>\ndreamforge model import <folder>"));
}
