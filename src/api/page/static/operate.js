// What operators look at: workers and slots, what waits, failures, and how much was done.

import { get } from "./api.js";
import { h, repeat } from "./dom.js";
import { edit } from "./draft.js";
import { failure } from "./failure.js";
import { bars } from "./plot.js";
import { age, bytes, plural, seconds } from "./words.js";

const EVERY_S = 5;
const DAYS = 14;
const FAILURES = 20;

export async function operate(signal) {
  const workers = h("section", { "aria-label": "Workers" });
  const queue = h("section", { "aria-label": "Queue" });
  const failures = h("section", { "aria-label": "Failures" });
  const figures = h("section", { className: "figures", "aria-label": "Figures" });
  const problem = h("div", {});
  const refresh = async () => {
    try {
      const [now, failed] = await Promise.all([get("v1/workers", signal), get(`v1/jobs?status=failed&limit=${FAILURES}`, signal)]);
      problem.replaceChildren();
      draw(workers, "Workers", now.workers.length ? now.workers.map(worker) : noWorker());
      draw(queue, "Waiting", now.queue.length ? waiting(now.queue) : h("p", { className: "empty" }, "Nothing waits."));
      draw(failures, "Failed lately", failed.jobs.length ? failed.jobs.map(failedJob) : h("p", { className: "empty" }, "Nothing has failed."));
    } catch (error) {
      if (signal.aborted) return;
      if (!error.code) throw error;
      problem.replaceChildren(failure(error)); // what is shown below stays, as it was
    }
  };
  await refresh();
  repeat(EVERY_S, signal, refresh);
  drawFigures(figures, signal);
  return h("div", {}, h("h1", {}, "Operate"), problem, figures, workers, queue, failures);
}

/** Rewrites a section unless its content is the same: a reader's place and focus stay. */
function draw(section, name, content) {
  const drawn = h("div", {}, h("h2", {}, name), content);
  if (section.firstElementChild?.isEqualNode(drawn)) return;
  section.replaceChildren(drawn);
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
    each.job_id && h("a", { href: `#/jobs/${each.job_id}` }, "its job"));
}

function waiting(rows) {
  return h("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "What waits" }, h("table", {},
    h("thead", {}, h("tr", {}, ["Priority", "User", "Device", "Steps"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {},
      h("td", {}, row.priority), h("td", {}, row.user), h("td", {}, row.device),
      h("td", { className: "count" }, row.exact ? row.waiting : `at least ${row.waiting}`))))));
}

function failedJob(job) {
  const again = async () => edit((await get(`v1/jobs/${job.id}`)).request);
  return h("article", { className: "panel row" },
    h("code", {}, job.error.code),
    h("span", { className: "message" }, job.error.message),
    h("span", { className: "dim" }, `${age(job.finished_at)} ago`),
    h("a", { href: `#/jobs/${job.id}` }, "Look"),
    h("button", { type: "button", className: "quiet", onclick: again }, "Draw again"));
}

function noWorker() {
  return h("div", { className: "empty" },
    h("p", {}, "No worker lives. Jobs are accepted and wait."),
    h("pre", { tabIndex: 0 }, "dreamforge worker"));
}

/** The last hour by the caller's own jobs, and the last days by what was used. */
async function drawFigures(section, signal) {
  const from = new Date(Date.now() - (DAYS - 1) * 86_400_000).toISOString().slice(0, 10);
  let usage;
  let newest;
  try {
    [{ usage }, { jobs: newest }] = await Promise.all([get(`v1/usage?from=${from}&limit=1000`, signal), get("v1/jobs?limit=200", signal)]);
  } catch (error) {
    if (signal.aborted) return;
    if (!error.code) throw error;
    section.replaceChildren(failure(error, () => drawFigures(section, signal)));
    return;
  }
  const days = Array.from({ length: DAYS }, (_, index) => new Date(Date.parse(from) + index * 86_400_000).toISOString().slice(0, 10));
  const sum = (day, of) => usage.filter((row) => row.day === day).reduce((total, row) => total + of(row), 0);
  const jobs = (row) => row.jobs.succeeded + row.jobs.failed + row.jobs.cancelled;
  const mean = (day) => sum(day, (row) => row.wait_seconds) / Math.max(1, sum(day, jobs));
  section.replaceChildren(
    bars("Your last hour", lastHour(newest), (value) => plural(value, "picture"), "in 5 min"),
    bars("Pictures a day", days.map((day) => ({ label: day, value: sum(day, (row) => row.pictures) })), (value) => plural(value, "picture")),
    bars("Waiting time of a job", days.map((day) => ({ label: day, value: mean(day) })), seconds),
    bars("Seconds of running", days.map((day) => ({ label: day, value: sum(day, (row) => row.run_seconds) })), seconds));
}

/** Pictures of jobs that ended, in spans of five minutes; of the 200 newest jobs. */
function lastHour(jobs) {
  const span = 5 * 60_000;
  const first = Date.now() - 12 * span;
  const rows = Array.from({ length: 12 }, (_, index) => ({ label: new Date(first + (index + 1) * span).toLocaleTimeString(undefined, { timeStyle: "short" }), value: 0 }));
  for (const { finished_at: end, summary } of jobs) {
    const row = rows[Math.floor((Date.parse(end) - first) / span)];
    if (row) row.value += summary.completed;
  }
  return rows;
}
