// What was given up, and another try of it.

import { call } from "./api.js";
import { announce, h } from "./dom.js";
import { Problem } from "./failure.js";
import { ago } from "./words.js";

const MEANING = {
  job: "a job that used all its attempts",
  webhook: "a receiver that took none for a day",
  message: "on the broker, and no worker can read it",
};

export class DeadLetters {
  constructor(signal, changed) {
    this.signal = signal;
    this.changed = changed;
    this.replayed = new Map(); // the job that came of each
    this.asked = new Set(); // letters whose replay was asked for and not answered yet
    this.problem = new Problem(signal);
  }

  /** The content of the section for an answer of `GET /v1/dead-letters`. */
  draw({ dead_letters: letters }) {
    if (!letters.length) return h("p", { className: "empty" }, "Nothing was given up.");
    return letters.map((letter) => this.row(letter));
  }

  row(letter) {
    return h("article", { className: "panel row" },
      h("code", { title: MEANING[letter.kind] }, letter.kind),
      h("span", { className: "message", title: letter.reason }, letter.reason),
      h("span", { className: "dim when" }, [letter.user, letter.since && ago(letter.since)].filter(Boolean).join(", ")),
      letter.mine ? h("a", { "data-key": `look at letter ${letter.id}`, href: `#/jobs/${letter.job_id}` }, "Look") : h("span", {}),
      this.action(letter));
  }

  action(letter) {
    if (!letter.replayable) return h("span", { className: "dim" }, "dreamforge dlq");
    const job = this.replayed.get(letter.id);
    if (job) return letter.mine ? h("a", { "data-key": letter.id, href: `#/jobs/${job}` }, "Replayed") : h("span", { className: "dim" }, "Replayed");
    return h("button", { "data-key": letter.id, type: "button", className: "quiet", "aria-label": `Replay the ${letter.kind}: ${letter.reason}`, onclick: () => this.replay(letter) }, "Replay");
  }

  async replay(letter) {
    if (this.asked.has(letter.id)) return;
    this.asked.add(letter.id);
    this.problem.clear();
    try {
      const { job_id: job } = await call("POST", `v1/dead-letters/${letter.id}/replay`, { signal: this.signal });
      this.replayed.set(letter.id, job);
      announce(`The ${letter.kind} is on its way again.`);
    } catch (error) {
      this.problem.show(error);
    } finally {
      this.asked.delete(letter.id);
    }
    await this.changed();
  }
}
