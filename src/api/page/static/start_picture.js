// Pictures to start from, as the chosen model takes them: one, with the mask of what is painted anew, or several.

import { h } from "./dom.js";
import { field } from "./fields.js";
import { asShown, pictureIn, send, TYPES } from "./inputs.js";
import { maskPainter } from "./mask.js";
import { References } from "./references.js";

const NO_PICTURE = "That is no picture: drop, paste or choose a PNG, JPEG or WebP.";
// `file` is what an upload calls a picture.
const FIELDS = ["image", "images", "mask", "mask_rule", "strength", "file"];

/** The control of the form. `allow` draws it for a model, `upload` sends what was chosen, before the job. */
export class StartPicture {
  constructor(changed, signal) {
    this.changed = changed;
    this.own = {};
    this.file = null;
    this.imageId = null;
    this.maskId = null;
    this.maskRule = undefined; // of a request that was taken over: what is painted here is white
    this.painter = null;
    this.strength = null;
    this.references = new References(changed, (files) => this.given(files));
    this.input = h("input", { type: "file", accept: TYPES, className: "hidden-text", id: "start-picture", onchange: () => this.given(this.input.files) });
    this.area = h("div", { className: "drop", role: "group", "aria-label": "Pictures to start from", "aria-describedby": "start-problem" });
    this.problem = h("p", { id: "start-problem", className: "problem", hidden: true });
    this.element = h("div", { className: "field start", ondragover: (event) => event.preventDefault(), ondrop: (event) => this.dropped(event) }, this.area, this.problem);
    document.addEventListener("paste", (event) => this.pasted(event), { signal });
  }

  /** Draw it for a model with these properties in its schema, whatever was chosen for another one. */
  allow(own) {
    this.own = own;
    const strength = this.strength?.read();
    this.strength = own.strength ? field("strength", own.strength) : null;
    if (strength !== undefined) this.strength?.write(strength);
    if (own.images) this.references.allow(own.images.maxItems ?? 1);
    this.draw();
  }

  draw() {
    const { image, images } = this.own;
    const focused = this.area.contains(document.activeElement);
    this.element.hidden = !image && !images && !this.chosen;
    if (images) this.area.replaceChildren(this.references.element);
    else if (image) this.drawOne();
    else this.area.replaceChildren(
      h("p", { className: "problem" }, "This model starts from no picture: yours is left out."),
      h("p", { className: "actions" }, h("button", { type: "button", onclick: () => this.clear() }, "Remove")));
    if (focused) this.area.querySelector("canvas, input[type=file], button")?.focus();
  }

  /** Whether a refusal of this field of the request is one of what is chosen here. */
  has(name) {
    return !this.element.hidden && FIELDS.includes(name.split(".")[0]);
  }

  complain(message) {
    if (message) this.forget();
    this.problem.hidden = !message;
    this.problem.textContent = message ?? "";
  }

  /** Send what is chosen anew: an input that was refused may be past its age. */
  forget() {
    if (this.file) this.imageId = null;
    this.references.forget();
  }

  focus() {
    this.area.querySelector("input, button")?.focus();
  }

  get chosen() {
    return Boolean(this.file || this.imageId || this.references.items.length);
  }

  drawOne() {
    if (!this.file && !this.imageId) {
      this.area.replaceChildren(this.input, h("label", { htmlFor: "start-picture" }, "Start from a picture"), h("span", { className: "dim" }, ": drop, paste or choose one"));
      return;
    }
    const shown = this.painter?.element ?? h("p", {}, "A picture of yours, ", h("code", {}, this.imageId));
    const paint = this.file && this.own.mask && !this.painter && h("button", { type: "button", onclick: () => this.paint() }, "Paint a mask");
    this.area.replaceChildren(
      this.file && !this.painter ? h("img", { src: this.address, alt: "The picture to start from" }) : shown,
      this.strength?.element ?? "",
      h("p", { className: "actions" }, paint || "", h("button", { type: "button", onclick: () => this.clear() }, "Remove")));
  }

  take(file) {
    this.clear();
    this.file = file;
    this.address = URL.createObjectURL(file);
    this.draw();
  }

  async paint() {
    const before = this.file;
    try {
      const file = await asShown(before);
      const painter = await maskPainter(file, () => this.changed());
      if (this.file !== before) return; // another one was chosen meanwhile
      if (file !== before) this.imageId = null;
      Object.assign(this, { file, painter });
    } catch {
      this.area.prepend(h("p", { className: "problem", role: "alert" }, "This browser cannot read the picture, so no mask can be painted on it."));
      return;
    }
    this.maskId = null;
    this.maskRule = undefined;
    this.draw();
  }

  clear() {
    if (this.address) URL.revokeObjectURL(this.address);
    this.file = this.imageId = this.maskId = this.painter = this.address = null;
    this.maskRule = undefined;
    this.input.value = "";
    this.references.clear();
    this.draw();
    this.changed();
  }

  dropped(event) {
    event.preventDefault();
    this.given(event.dataTransfer.files);
  }

  pasted(event) {
    const { clipboardData: data } = event;
    const inText = this.own.images || this.own.image ? pictureIn(data.getData("text/plain")) : null;
    if (inText) event.preventDefault(); // it would be a prompt of some thousand letters
    this.given(inText ? [inText] : data.files);
  }

  /** Take what of these is a picture; of files without a type that is known here the browser says none. */
  given(files) {
    if (!files.length) return;
    const pictures = [...files].filter((file) => file.type.startsWith("image/"));
    this.complain(pictures.length < files.length ? NO_PICTURE : null);
    if (!pictures.length) return;
    if (this.own.images) this.references.take(pictures);
    else if (this.own.image) this.take(pictures[0]);
  }

  async upload(signal) {
    if (this.own.images) await this.references.upload(signal);
    if (!this.own.image) return;
    while (this.file && !this.imageId) {
      const { file } = this;
      const id = await send(file, signal);
      if (file === this.file) this.imageId = id; // else another one was chosen meanwhile
    }
    const { painter } = this;
    if (painter) this.maskId = painter.painted ? await send(await painter.file(), signal) : null;
  }

  read() {
    if (this.own.images) return this.references.read();
    if (!this.own.image || !this.imageId) return {};
    const strength = this.strength?.read();
    const mask = this.own.mask && this.maskId && { mask: this.maskId, ...(this.maskRule && { mask_rule: this.maskRule }) };
    return { image: this.imageId, ...mask, ...(strength !== undefined && { strength }) };
  }

  /** Take over what a request started from. A picture becomes what the model takes: the one, or one of several. */
  write(values) {
    const ids = values.images ?? (values.image ? [values.image] : []);
    if (this.own.images) this.references.write(ids);
    if (!values.image || this.file) return;
    this.imageId = values.image;
    this.maskId = values.mask ?? null;
    this.maskRule = values.mask_rule ?? undefined;
    if (values.strength !== undefined) this.strength?.write(values.strength);
    this.draw();
  }
}
