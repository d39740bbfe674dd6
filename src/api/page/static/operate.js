// What operators look at: workers and slots, what waits, failures, and how much was done.

import { get } from "./api.js";
import { DeadLetters } from "./dead_letters.js";
import { h, repeat } from "./dom.js";
import { edit } from "./draft.js";
import { Problem } from "./failure.js";
import { drawFigures, places } from "./figures.js";
import { age, ago, bytes, plural } from "./words.js";

const EVERY_S = 5;
const FIGURES_EVERY_S = 60;
const FAILURES = 20;
const OUT_OF_SERVICE = ["quarantined", "lost"];

export async function operate(signal) {
  const workers = h("section", { "aria-label": "Workers" });
  const queue = h("section", { "aria-label": "Queue" });
  const failures = h("section", { "aria-label": "Failures" });
  const dead = h("section", { "aria-label": "Dead letters" });
  const figures = h("section", { className: "figures", "aria-label": "Figures" }, places());
  const problem = new Problem(signal);
  const refused = new Problem(signal);
  const summary = h("p", { className: "summary" });
  const refresh = async () => {
    const options = { asks: !problem.shown }; // a key that was asked for and not given is not asked for every 5 s
    try {
      const [now, given, failed] = await Promise.all([
        get("v1/workers", signal, options),
        get(`v1/dead-letters?limit=${FAILURES}`, signal, options),
        get(`v1/jobs?status=failed&limit=${FAILURES}`, signal, options),
      ]);
      if (problem.clear()) drawPlots();
      problem.note = `What is below was read before. This page asks again every ${EVERY_S} s.`;
      summary.replaceChildren(...inShort(now, given));
      draw(workers, "Workers", now.workers.length ? now.workers.map(worker) : noWorker());
      draw(queue, "Waiting", now.queue.length ? waiting(now.queue) : h("p", { className: "empty" }, "Nothing waits."));
      draw(dead, "Dead letters", letters.draw(given));
      draw(failures, "Failed lately", failed.jobs.length ? failed.jobs.map((job) => failedJob(job, refused)) : h("p", { className: "empty" }, "Nothing has failed."));
    } catch (error) {
      problem.show(error); // what is shown below stays, as it was
    }
  };
  problem.again = () => { problem.clear(); drawPlots(); refresh(); };
  const letters = new DeadLetters(signal, refresh);
  /** While nothing can be read there is one failure, and not a second one here. */
  const drawPlots = () => problem.shown ?? drawFigures(figures, signal);
  await refresh();
  repeat(EVERY_S, signal, refresh);
  drawPlots();
  repeat(FIGURES_EVERY_S, signal, drawPlots);
  return h("div", {}, h("h1", {}, "Operate"), summary, problem.element, figures, workers, queue, dead, letters.problem.element, failures, refused.element);
}

/** What an operator asks first: does all serve, and does anything pile up. */
function inShort({ workers, queue }, { dead_letters: letters }) {
  const slots = workers.flatMap((each) => each.slots);
  const out = slots.filter((each) => OUT_OF_SERVICE.includes(each.state)).length;
  const waits = queue.reduce((sum, row) => sum + row.waiting, 0);
  const least = queue.every((row) => row.exact) ? "" : "at least ";
  return [
    chip(`${slots.length - out} of ${plural(slots.length, "slot")} ${slots.length - out === 1 ? "serves" : "serve"}`, out || !slots.length ? "failed" : "free"),
    chip(`${least}${plural(waits, "step")} ${waits === 1 ? "waits" : "wait"}`, waits ? "held" : "free"),
    letters.length > 0 && chip(plural(letters.length, "dead letter"), "failed"),
  ].filter(Boolean);
}

const chip = (text, state) => h("span", { className: `chip ${state}` }, text);

/** Rewrites a section unless its content is the same. The focus stays on what has the same `data-key`, else in the section. */
function draw(section, name, content) {
  const heading = h("h2", { tabIndex: -1 }, name);
  const drawn = h("div", {}, heading, content);
  if (section.firstElementChild?.isEqualNode(drawn)) return;
  const focused = section.contains(document.activeElement) ? document.activeElement : null;
  section.replaceChildren(drawn);
  if (!focused) return;
  const same = section.querySelector(`[data-key="${CSS.escape(focused.dataset.key ?? "")}"]`);
  (same ?? heading).focus({ preventScroll: true });
}

function worker(each) {
  const kept = [...each.serves.priorities, ...(each.serves.users ?? ["some users"])];
  return h("article", { className: "panel worker" },
    h("h3", {}, each.host ?? `Worker ${each.id.slice(0, 8)}`, h("span", { className: "dim" }, ` ${each.version}`)),
    h("p", { className: "dim" }, `Up for ${age(each.started_at)}`, kept.length > 0 && ` · kept for ${kept.join(", ")}`),
    h("ul", { className: "slots" }, each.slots.map(slot)),
    h("p", { className: "models" }, each.models.length
      ? each.models.map((name) => h("span", { className: each.warm.includes(name) ? "tag warm" : "tag" }, name, each.warm.includes(name) && h("span", { className: "dim" }, " warm")))
      : h("span", { className: "dim" }, "No model is verified here.")));
}

function slot(each) {
  const used = each.free_bytes === null ? null : Math.max(0, each.total_bytes - each.free_bytes);
  const memory = used === null ? `${bytes(each.total_bytes)}, not read yet` : `${bytes(used)} of ${bytes(each.total_bytes)}`;
  return h("li", {},
    h("span", { className: `chip ${each.state}` }, each.state),
    h("span", { className: "name" }, each.class, h("span", { className: "dim" }, ` ${each.id}`)),
    h("meter", { min: 0, max: each.total_bytes, value: used ?? 0, "aria-label": `Memory of ${each.id}` }),
    h("span", { className: "dim" }, memory),
    each.job_id && holder(each));
}

/** What holds a slot. Only its user may read a job, so another's is named and not led to. */
function holder({ id, job_id: job, mine }) {
  return mine
    ? h("a", { "data-key": id, href: `#/jobs/${job}` }, "its job")
    : h("span", { className: "dim", title: `Another user's job, ${job}` }, "another's job");
}

function waiting(rows) {
  return h("div", { className: "scroll", tabIndex: 0, "data-key": "waiting", role: "region", "aria-label": "What waits" }, h("table", {},
    h("thead", {}, h("tr", {}, ["Priority", "User", "Device", "Steps"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {},
      h("td", {}, row.priority), h("td", {}, row.user), h("td", {}, row.device),
      h("td", { className: "count" }, row.exact ? row.waiting : `at least ${row.waiting}`))))));
}

function failedJob(job, refused) {
  const again = async () => {
    refused.clear();
    try {
      edit((await get(`v1/jobs/${job.id}`)).request);
    } catch (error) {
      refused.show(error);
    }
  };
  return h("article", { className: "panel row" },
    h("code", {}, job.error.code),
    h("span", { className: "message" }, job.error.message),
    h("span", { className: "dim when" }, ago(job.finished_at)),
    h("a", { "data-key": `look ${job.id}`, href: `#/jobs/${job.id}` }, "Look"),
    h("button", { "data-key": `again ${job.id}`, type: "button", className: "quiet", onclick: again }, "Draw again"));
}

function noWorker() {
  return h("div", { className: "empty" },
    h("p", {}, "No worker lives. Jobs are accepted and wait. On a host with a device, start one:"),
    h("pre", { tabIndex: 0 }, "dreamforge worker"));
}
