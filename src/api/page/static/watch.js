// One job, from the line that waits to its pictures, or to why it failed.

import { call, get } from "./api.js";
import { announce, confirm, h } from "./dom.js";
import { edit } from "./draft.js";
import { failure } from "./failure.js";
import { missing } from "./missing.js";
import { openPicture } from "./picture.js";
import { follow, sleep } from "./stream.js";
import { ago, place, plural, short } from "./words.js";

const LOG_LINES = 200;
const MANY = 9;
const LIVE = ["queued", "running"];
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 10_000;
const SPOKEN_EVERY_MS = 10_000;
const AWAY = "The API does not answer. Trying again…";

/** A job on a page of its own. */
export async function jobPage(signal, jobId) {
  await get(`v1/jobs/${jobId}`, signal); // an id that leads nowhere is the page's failure
  return h("div", { className: "narrow" }, h("h1", { className: "hidden-text" }, "Job"), watch(jobId, signal));
}

/** The element of a job; it follows the job until that ends, or `signal` does. */
export function watch(jobId, signal) {
  return new Watch(jobId, signal).element;
}

class Watch {
  constructor(jobId, signal) {
    this.jobId = jobId;
    this.signal = signal;
    this.previews = new Map();
    this.position = { last: null };
    this.artifacts = [];
    this.spoken = { quarter: -1, at: 0 };
    this.title = h("h2", { dir: "auto" }, "…");
    this.chip = h("span", { className: "chip" });
    this.bar = h("progress", { max: 1, value: 0, "aria-label": "Progress" });
    this.now = h("p", { className: "now" }, "…");
    this.stages = h("ol", { className: "stages", "aria-label": "Stages" });
    this.pictures = h("ul", { className: "tiles" });
    this.outcome = h("div", {});
    this.actions = h("p", { className: "actions" });
    this.log = h("ol", { className: "log" });
    this.element = h("article", { className: "panel watch", tabIndex: -1 },
      h("header", {}, this.title, this.chip),
      this.bar, this.now, this.stages, this.outcome, this.actions, this.pictures,
      h("details", {}, h("summary", {}, "Log"), this.log),
      h("p", { className: "dim small-text" }, "Job ", h("a", { href: `#/jobs/${jobId}` }, h("code", {}, jobId))));
    this.run();
  }

  /** Follow the job to its end, whatever breaks on the way. */
  async run() {
    let pause = FIRST_PAUSE_MS;
    const seen = async ({ event, data }) => {
      pause = FIRST_PAUSE_MS;
      await this.see(event, data);
    };
    while (!this.signal.aborted) {
      try {
        if (await this.connect(seen)) return;
        if (!this.live) continue; // nothing is to come but what was not read yet
      } catch (error) {
        if (this.signal.aborted) return;
        if (!passes(error)) {
          this.giveUp(error);
          return;
        }
        if (this.now.textContent !== AWAY) announce(AWAY);
        this.now.textContent = AWAY;
      }
      await sleep(pause, this.signal);
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  }

  /** Follow it with one connection; whether it has ended. */
  async connect(seen) {
    await this.refresh();
    await this.readStages();
    if (this.now.textContent === AWAY) this.now.textContent = "Running";
    const messages = follow(this.jobId, this.position, this.signal);
    let next = await messages.next();
    for (; !next.done; next = await messages.next()) await seen(next.value);
    await this.refresh();
    return next.value;
  }

  async readStages() {
    if (this.weights) return;
    this.weights = (await get(`v1/jobs/${this.jobId}/progress`, this.signal)).stages;
    this.drawStages(null);
    if (this.live) announce("The job waits for a slot.");
  }

  giveUp(error) {
    if (!error.code) throw error;
    this.outcome.replaceChildren(failure(error, () => { this.outcome.replaceChildren(); this.run(); }));
  }

  get live() {
    return LIVE.includes(this.job.status);
  }

  async refresh() {
    const [job, { artifacts }] = await Promise.all([
      get(`v1/jobs/${this.jobId}`, this.signal),
      get(`v1/jobs/${this.jobId}/artifacts`, this.signal),
    ]);
    const ended = this.job && this.live && !LIVE.includes(job.status);
    this.job = job;
    const known = new Map(this.artifacts.map((artifact) => [artifact.id, artifact]));
    this.artifacts = artifacts.map((artifact) => known.get(artifact.id) ?? artifact); // each answer has new addresses
    this.draw();
    if (ended) announce(`The job ${job.status === "cancelled" ? "was cancelled" : job.status}: ${this.now.textContent}`);
  }

  draw() {
    const { job } = this;
    this.title.textContent = job.request?.prompt ?? "Job";
    this.chip.className = `chip ${job.status}`;
    this.chip.textContent = job.cancel_requested_at && this.live ? "cancelling" : job.status;
    this.bar.hidden = this.stages.hidden = !this.live;
    if (job.queue || job.status === "queued") this.now.textContent = place(job.queue);
    if (!this.live) this.now.textContent = `${plural(job.summary.completed, "picture")} of ${job.summary.count}, ${ago(job.finished_at)}`;
    this.drawPictures();
    this.drawEnd();
  }

  /** What may be done with it, and why it failed; drawn anew only where that changes, so that focus and text stay. */
  drawEnd() {
    const { job } = this;
    const state = `${this.chip.textContent} ${Boolean(job.request)}`;
    if (this.actions.dataset.shown === state) return;
    this.actions.dataset.shown = state;
    const focused = this.actions.contains(document.activeElement);
    this.outcome.replaceChildren(job.error && job.status === "failed" ? failure(job.error) : "");
    this.actions.replaceChildren(...(this.live ? this.whileLive() : this.whenEnded()));
    if (focused) (this.actions.querySelector("button:enabled") ?? this.element).focus();
  }

  whileLive() {
    return [h("button", { type: "button", disabled: Boolean(this.job.cancel_requested_at), onclick: () => this.cancel() }, "Cancel")];
  }

  whenEnded() {
    const { request, status } = this.job;
    const again = request && h("button", { type: "button", onclick: () => edit(request) }, status === "failed" ? "Change and draw again" : "Draw again");
    return [again, h("button", { type: "button", className: "quiet danger", onclick: () => this.delete() }, "Delete")].filter(Boolean);
  }

  /** A tile for each item: its last picture, else what is seen of it so far, else its place. */
  drawPictures() {
    const last = new Map(this.artifacts.map((artifact) => [artifact.item_index, artifact]));
    const { count } = this.job.summary;
    while (this.pictures.childElementCount < count) this.pictures.append(h("li", {}));
    for (const [index, item] of [...this.pictures.children].entries()) this.drawItem(item, index, last.get(index));
    this.pictures.hidden = !this.live && !last.size;
    this.pictures.classList.toggle("single", count === 1);
    this.pictures.classList.toggle("many", count > MANY);
  }

  /** What is the same as before stays: a new element would load its picture again. */
  drawItem(item, index, artifact) {
    const preview = this.previews.get(index);
    const shown = artifact?.id ?? (this.live ? (preview ?? "nothing") : "");
    if (item.dataset.shown === shown) return;
    item.dataset.shown = shown;
    item.hidden = !shown;
    if (artifact) item.replaceChildren(pictureButton(artifact, this.job, () => this.open(index)));
    else if (preview) item.replaceChildren(h("img", { src: preview, alt: `Preview of picture ${index + 1}`, className: "preview" }));
    else item.replaceChildren(h("span", { className: "skeleton picture" }, h("span", { className: "hidden-text" }, "Not drawn yet")));
  }

  open(index) {
    const last = new Map(this.artifacts.map((artifact) => [artifact.item_index, artifact]));
    const list = [...last.values()];
    openPicture(list, list.indexOf(last.get(index)), () => this.job);
  }

  async see(event, data) {
    if (event === "queue") this.now.textContent = place(data.payload);
    else if (event === "preview") this.seePreview(data);
    else {
      this.write(data);
      if (!this.live) return; // of a job that has ended all is shown already
      if (event === "progress") this.seeProgress(data.payload);
      if (event === "artifact" || data.code === "step.start") await this.refresh();
    }
  }

  seePreview({ item_index: index, image }) {
    const before = this.previews.get(index);
    if (before) URL.revokeObjectURL(before);
    this.previews.set(index, URL.createObjectURL(new Blob([decode(image)], { type: "image/jpeg" })));
    this.drawPictures();
  }

  seeProgress(payload) {
    this.bar.value = payload.progress;
    if (!payload.stage) return;
    const parts = [`${Math.round(100 * payload.progress)} %`, payload.stage];
    if (payload.steps) parts.push(`step ${payload.step} of ${payload.steps}`);
    if (payload.count > 1) parts.push(`picture ${Math.min(payload.completed + 1, payload.count)} of ${payload.count}`);
    this.now.textContent = parts.join(" · ");
    this.drawStages(payload.stage);
    this.speak(payload.progress);
  }

  /** Each quarter that is done, for those who do not see the bar; the events are far too many. */
  speak(progress) {
    const quarter = Math.floor(4 * progress);
    if (quarter === this.spoken.quarter || Date.now() - this.spoken.at < SPOKEN_EVERY_MS) return;
    this.spoken = { quarter, at: Date.now() };
    announce(this.now.textContent);
  }

  drawStages(current) {
    const names = [...new Set(this.weights.map((stage) => stage.name))];
    const at = names.indexOf(current);
    this.stages.replaceChildren(...names.map((name, index) => h("li", { className: index < at ? "done" : "", "aria-current": index === at ? "step" : null }, name)));
  }

  write({ ts, level, code, message }) {
    this.log.append(h("li", { className: level.toLowerCase() }, h("time", {}, ts.slice(11, 19)), " ", h("code", {}, code), ` ${message}`));
    if (this.log.childElementCount > LOG_LINES) this.log.firstElementChild.remove();
  }

  async cancel() {
    try {
      this.job = await call("POST", `v1/jobs/${this.jobId}/cancel`, { signal: this.signal });
      announce("Cancelling: what runs is stopped and its memory proven free first.");
      this.draw();
    } catch (error) {
      if (!error.code) throw error;
      this.outcome.replaceChildren(failure(error));
    }
  }

  async delete() {
    try {
      if (!(await deleteJob(this.jobId, this.signal))) return;
      this.element.replaceChildren(h("p", { className: "empty" }, "This job was deleted, with its pictures and its log."));
      this.element.focus();
      announce("Deleted");
    } catch (error) {
      if (!error.code) throw error;
      this.outcome.replaceChildren(failure(error));
    }
  }
}

/** Delete an ended job after a question; whether it is gone. Raises `ApiError`. */
export async function deleteJob(jobId, signal) {
  const question = "Delete this job, all of its pictures and its log? Nothing of it can be had back.";
  if (!(await confirm(question, "Delete"))) return false;
  await call("DELETE", `v1/jobs/${jobId}`, { signal });
  return true;
}

/** Whether the same request may succeed later. */
const passes = (error) => [0, 429, 503].includes(error.status);

/** The bytes of a `data:` address; as such the page's policy would not show it. */
function decode(address) {
  return Uint8Array.from(atob(address.slice(address.indexOf(",") + 1)), (character) => character.charCodeAt(0));
}

/** A picture as a button that opens it large. */
export function pictureButton(artifact, job, onclick) {
  const name = `${short(job.request?.prompt ?? "Picture")}, seed ${artifact.seed}`;
  return h("button", { type: "button", className: "tile", onclick, "aria-label": `Open: ${name}` },
    h("img", { src: artifact.url, alt: "", loading: "lazy", width: artifact.width, height: artifact.height, onerror: ({ target }) => target.replaceWith(missing()) }));
}
