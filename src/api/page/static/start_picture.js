// A picture to start from, and the mask of what is painted anew: where this API takes them.

import { call } from "./api.js";
import { h } from "./dom.js";
import { field, plain } from "./fields.js";
import { maskPainter } from "./mask.js";

const TYPES = "image/png,image/jpeg,image/webp";

/** The control; null where the API has no inputs. `upload` sends what was chosen, before the job. */
export function startPicture(document_, common, changed) {
  if (!common.image || !document_.paths["/v1/inputs"]) return null;
  return new StartPicture(common, changed);
}

class StartPicture {
  constructor(common, changed) {
    this.changed = changed;
    this.file = null;
    this.imageId = null;
    this.maskId = null;
    this.painter = null;
    this.takesMask = Boolean(common.mask);
    this.strength = common.strength ? field("strength", plain(common.strength)) : null;
    this.input = h("input", { type: "file", accept: TYPES, className: "hidden-text", id: "start-picture", onchange: () => this.take(this.input.files[0]) });
    this.area = h("div", { className: "drop" });
    this.element = h("div", { className: "field start", ondragover: (event) => event.preventDefault(), ondrop: (event) => this.dropped(event) }, this.area);
    document.addEventListener("paste", (event) => this.pasted(event));
    this.draw();
  }

  draw() {
    if (!this.file && !this.imageId) {
      this.area.replaceChildren(this.input, h("label", { htmlFor: "start-picture" }, "Start from a picture"), h("span", { className: "dim" }, " drop, paste or choose one"));
      return;
    }
    const shown = this.painter?.element ?? h("p", {}, "A picture of yours, ", h("code", {}, this.imageId));
    const paint = this.file && this.takesMask && !this.painter && h("button", { type: "button", onclick: () => this.paint() }, "Paint a mask");
    this.area.replaceChildren(
      this.file && !this.painter ? h("img", { src: this.address, alt: "The picture to start from" }) : shown,
      this.strength?.element ?? "",
      h("p", { className: "actions" }, paint || "", h("button", { type: "button", onclick: () => this.clear() }, "Remove")));
  }

  take(file) {
    if (!file?.type.startsWith("image/")) return;
    this.clear();
    this.file = file;
    this.address = URL.createObjectURL(file);
    this.draw();
  }

  async paint() {
    try {
      this.painter = await maskPainter(this.file);
    } catch {
      this.area.prepend(h("p", { className: "problem", role: "alert" }, "This browser cannot read the picture, so no mask can be painted on it."));
      return;
    }
    this.maskId = null;
    this.draw();
  }

  clear() {
    if (this.address) URL.revokeObjectURL(this.address);
    this.file = this.imageId = this.maskId = this.painter = this.address = null;
    this.input.value = "";
    this.draw();
    this.changed();
  }

  dropped(event) {
    event.preventDefault();
    this.take(event.dataTransfer.files[0]);
  }

  pasted(event) {
    if (this.element.isConnected && event.clipboardData.files.length) this.take(event.clipboardData.files[0]);
  }

  async upload(signal) {
    if (this.file) this.imageId ??= await send(this.file, signal);
    if (this.painter?.painted) this.maskId = await send(await this.painter.file(), signal);
  }

  read() {
    if (!this.imageId) return {};
    const strength = this.strength?.read();
    return { image: this.imageId, ...(this.maskId && { mask: this.maskId }), ...(strength !== undefined && { strength }) };
  }

  write(values) {
    if (!values.image || this.file) return;
    this.imageId = values.image;
    this.maskId = values.mask ?? null;
    if (values.strength !== undefined) this.strength?.write(values.strength);
    this.draw();
  }
}

async function send(file, signal) {
  const body = new FormData();
  body.append("file", file);
  return (await call("POST", "v1/inputs", { body, signal })).input.id;
}
