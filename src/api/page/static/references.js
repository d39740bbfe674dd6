// The pictures that an edit model works on, in their order: dropped, pasted or chosen.

import { h } from "./dom.js";
import { send, TYPES } from "./inputs.js";

export class References {
  /** `given` gets the files that are chosen here, and calls `take` with the pictures among them. */
  constructor(changed, given) {
    this.changed = changed;
    this.items = []; // {file, address, id}: a file of this machine, or the id of one that was sent
    this.most = 1;
    this.input = h("input", { type: "file", accept: TYPES, multiple: true, className: "hidden-text", id: "references", onchange: () => given(this.input.files) });
    this.element = h("div", {});
    this.draw();
  }

  /** The most that the model takes; those beyond are left out. */
  allow(most) {
    this.most = most;
    this.items.splice(most);
    this.draw();
  }

  draw() {
    const full = this.items.length >= this.most;
    const focused = this.element.contains(document.activeElement);
    this.element.replaceChildren(
      full ? "" : this.input,
      full ? "" : h("label", { className: "link", htmlFor: "references" }, this.items.length ? "Add a picture" : "Pictures to work on"),
      full ? "" : h("span", { className: "dim" }, `: drop, paste or choose, ${this.most === 1 ? "one" : `up to ${this.most}`}`),
      h("ul", { className: "references" }, this.items.map((item, index) => this.row(item, index))));
    if (focused) this.element.querySelector("input, li:last-child button").focus();
  }

  row(item, index) {
    const shown = item.address ? h("img", { src: item.address, alt: `Picture ${index + 1}` }) : h("code", {}, item.id);
    return h("li", {}, shown, h("button", { type: "button", "aria-label": `Remove picture ${index + 1}`, onclick: () => this.remove(item) }, "Remove"));
  }

  take(files) {
    for (const file of files) {
      if (this.items.length < this.most) this.items.push({ file, address: URL.createObjectURL(file), id: null });
    }
    this.input.value = "";
    this.draw();
    this.changed();
  }

  remove(item) {
    if (item.address) URL.revokeObjectURL(item.address);
    this.items.splice(this.items.indexOf(item), 1);
    this.draw();
    this.changed();
  }

  clear() {
    for (const { address } of this.items) if (address) URL.revokeObjectURL(address);
    this.items = [];
    this.draw();
  }

  /** Those that are files here are sent anew. */
  forget() {
    for (const item of this.items) if (item.file) item.id = null;
  }

  async upload(signal) {
    for (const item of this.items) item.id ??= await send(item.file, signal);
  }

  read() {
    const ids = this.items.map((item) => item.id).filter(Boolean);
    return ids.length ? { images: ids } : {};
  }

  write(ids) {
    if (this.items.length) return;
    this.items = ids.slice(0, this.most).map((id) => ({ file: null, address: null, id }));
    this.draw();
  }
}
