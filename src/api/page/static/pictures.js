// Pictures, newest first: jobs page by page, each with what it has made.

import { get } from "./api.js";
import { announce, h } from "./dom.js";
import { failure } from "./failure.js";
import { openPicture } from "./picture.js";
import { deleteJob, pictureButton } from "./watch.js";
import { ago, short } from "./words.js";

const PAGE = 24;
const STATUSES = ["", "succeeded", "running", "queued", "failed", "cancelled"];

export async function pictures(signal) {
  const gallery = new Gallery(signal);
  await gallery.restart();
  return gallery.element;
}

class Gallery {
  constructor(signal) {
    this.signal = signal;
    this.status = h("select", { id: "filter-status", onchange: () => this.restart() }, STATUSES.map((each) => h("option", { value: each }, each || "all")));
    this.tag = h("input", { id: "filter-tag", placeholder: "project=winter" });
    this.heading = h("h1", { tabIndex: -1 }, "Pictures");
    this.list = h("ul", { className: "tiles gallery", "aria-label": "Pictures" });
    this.foot = h("div", { className: "foot" });
    this.element = h("div", {},
      h("header", { className: "heading" },
        this.heading,
        h("form", { className: "filters", onsubmit: (event) => { event.preventDefault(); this.restart(); } },
          h("span", {}, h("label", { htmlFor: "filter-status" }, "Status"), this.status),
          h("span", {}, h("label", { htmlFor: "filter-tag" }, "Tag"), this.tag, h("button", {}, "Show")))),
      this.list, this.foot);
  }

  /** The first page for the filter as it is now. One for an older filter that is still on its way is dropped. */
  async restart() {
    this.asking?.abort();
    this.asking = new AbortController();
    this.shown = [];
    this.cursor = null;
    this.list.replaceChildren();
    await this.more();
  }

  async more() {
    const signal = AbortSignal.any([this.signal, this.asking.signal]);
    const before = this.list.childElementCount;
    const focused = this.foot.contains(document.activeElement);
    const query = new URLSearchParams({ limit: PAGE });
    if (this.cursor) query.set("cursor", this.cursor);
    if (this.status.value) query.set("status", this.status.value);
    if (this.tag.value.trim()) query.set("tag", this.tag.value.trim());
    this.foot.replaceChildren(h("p", { className: "skeleton line", "aria-hidden": "true" }));
    try {
      const page = await get(`v1/jobs?${query}`, signal);
      const details = await each(page.jobs, (job) => this.load(job, signal));
      if (signal.aborted) return;
      page.jobs.forEach((job, index) => details[index] && this.add({ ...job, request: details[index].request }, details[index].artifacts));
      this.cursor = page.next_cursor;
      this.drawFoot();
      if (focused) this.focusAt(before);
      announce(`${this.list.childElementCount} shown${this.cursor ? ", and there are older ones" : ""}.`);
    } catch (error) {
      if (signal.aborted) return;
      if (!error.code) throw error;
      this.foot.replaceChildren(failure(error, () => this.more()));
      if (focused) this.foot.querySelector("button").focus();
    }
  }

  /** What the list does not tell of a job; null where it was deleted since. */
  async load(job, signal) {
    try {
      const [whole, { artifacts }] = await Promise.all([
        get(`v1/jobs/${job.id}`, signal),
        get(`v1/jobs/${job.id}/artifacts`, signal),
      ]);
      return { request: whole.request, artifacts };
    } catch (error) {
      if (error.status === 404) return null;
      throw error;
    }
  }

  /** The last picture of each item; a job without one is a card that leads to it. */
  add(job, artifacts) {
    const last = new Map(artifacts.map((artifact) => [artifact.item_index, artifact]));
    if (!last.size) this.list.append(h("li", {}, h("a", { className: `card ${job.status}`, "aria-label": `${job.status} ${short(job.request?.prompt ?? job.id)}`, href: `#/jobs/${job.id}` },
      h("span", { className: `chip ${job.status}` }, job.status),
      h("span", { className: "prompt", dir: "auto" }, job.request?.prompt ?? job.id),
      h("span", { className: "dim" }, job.status === "failed" ? job.error.code : ago(job.created_at)))));
    for (const artifact of last.values()) {
      artifact.job = job;
      this.shown.push(artifact);
      const item = h("li", {}, pictureButton(artifact, job, () => this.open(artifact)));
      item.dataset.job = job.id;
      this.list.append(item);
    }
  }

  open(artifact) {
    openPicture(this.shown, this.shown.indexOf(artifact), (each) => each.job, { onDelete: (job, dialog) => this.delete(job, dialog) });
  }

  /** Raises `ApiError`, and leaves the dialog open then. */
  async delete(job, dialog) {
    if (!(await deleteJob(job.id, this.signal))) return;
    dialog.close();
    this.shown = this.shown.filter((artifact) => artifact.job.id !== job.id);
    const items = [...this.list.querySelectorAll(`[data-job="${job.id}"]`)];
    const at = [...this.list.children].indexOf(items[0]);
    for (const item of items) item.remove();
    this.drawFoot();
    this.focusAt(at); // the picture that had opened the dialog is gone
    announce("Deleted");
  }

  /** Put the focus on what is in this place of the list, else on the last one. */
  focusAt(index) {
    const item = this.list.children[index] ?? this.list.lastElementChild;
    (item?.querySelector("button, a") ?? this.heading).focus();
  }

  drawFoot() {
    if (this.cursor) this.foot.replaceChildren(h("button", { type: "button", onclick: () => this.more() }, "Older ones"));
    else if (!this.list.childElementCount) this.foot.replaceChildren(this.empty());
    else this.foot.replaceChildren(h("p", { className: "dim" }, "That is all there is."));
  }

  empty() {
    const filtered = this.status.value || this.tag.value;
    return h("div", { className: "empty" },
      h("p", {}, filtered ? "Nothing matches this filter." : "No pictures yet."),
      !filtered && h("p", {}, h("a", { className: "button primary", href: "#/create" }, "Draw the first one")));
  }
}

/** `work` for each, a few at a time, in their order. */
async function each(items, work, atOnce = 4) {
  const results = [];
  let next = 0;
  const lane = async () => {
    while (next < items.length) {
      const index = next;
      next += 1;
      results[index] = await work(items[index]);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
  return results;
}
