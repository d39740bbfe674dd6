// How much was done: the last hour by what ended in it, the last days by what was used.

import { get } from "./api.js";
import { h } from "./dom.js";
import { failure } from "./failure.js";
import { bars } from "./plot.js";
import { plural, seconds } from "./words.js";

const PLOTS = 5;
const DAYS = 14;
const DAY_MS = 86_400_000;

/** As many places as there are plots: what is below does not move when they come. */
export const places = () => Array.from({ length: PLOTS }, () => h("div", { className: "panel plot skeleton", "aria-hidden": "true" }));

/** Draw the plots into `section`. A failure is shown in their place, with another try. */
export async function drawFigures(section, signal) {
  const from = new Date(Date.now() - (DAYS - 1) * DAY_MS).toISOString().slice(0, 10);
  try {
    const [activity, usage] = await Promise.all([get("v1/activity", signal), usageFrom(from, signal)]);
    section.replaceChildren(...hour(activity), ...days(from, usage));
  } catch (error) {
    if (signal.aborted) return;
    if (!error.code) throw error;
    section.replaceChildren(failure(error, () => drawFigures(section, signal)));
  }
}

async function usageFrom(from, signal) {
  const rows = [];
  for (let cursor = null; ; ) {
    const page = await get(`v1/usage?from=${from}&limit=1000${cursor ? `&cursor=${cursor}` : ""}`, signal);
    rows.push(...page.usage);
    cursor = page.next_cursor;
    if (!cursor) return rows;
  }
}

function hour({ spans, exact }) {
  const pictures = sum(spans, (span) => span.pictures);
  const failed = sum(spans, (span) => span.jobs.failed);
  const longest = Math.max(...spans.map((span) => span.wait_s?.longest ?? -1));
  const about = [!exact && "at least", failed ? `${plural(failed, "job")} failed` : "none failed"].filter(Boolean).join(", ");
  const throughput = spans.map(({ start, pictures: value, jobs }) => ({
    label: time(start),
    value,
    text: [plural(value, "picture"), jobs.failed && `${jobs.failed} failed`].filter(Boolean).join(", "),
  }));
  const waits = spans.map(({ start, wait_s: wait }) => ({
    label: time(start),
    value: wait?.median ?? 0,
    text: wait ? `${seconds(wait.median)}, longest ${seconds(wait.longest)}` : "none started",
  }));
  return [
    bars("Pictures, last hour", throughput, { headline: plural(pictures, "picture"), about }),
    bars("Wait for a slot, last hour", waits, longest < 0 ? { headline: "–", about: "none ended" } : { headline: seconds(longest), about: "the longest" }),
  ];
}

function days(from, usage) {
  const all = Array.from({ length: DAYS }, (_, index) => new Date(Date.parse(from) + index * DAY_MS).toISOString().slice(0, 10));
  const byDay = (name, value, words) => bars(name, all.map((day) => {
    const amount = value(usage.filter((row) => row.day === day));
    return { label: day, value: amount, text: words(amount) };
  }));
  const ended = ({ jobs }) => jobs.succeeded + jobs.failed + jobs.cancelled;
  return [
    byDay("Pictures, by day", (rows) => sum(rows, (row) => row.pictures), (value) => plural(value, "picture")),
    byDay("Wait of a job, by day", (rows) => sum(rows, (row) => row.wait_seconds) / Math.max(1, sum(rows, ended)), seconds),
    byDay("Running, by day", (rows) => sum(rows, (row) => row.run_seconds), seconds),
  ];
}

const sum = (rows, of) => rows.reduce((total, row) => total + of(row), 0);

const time = (text) => new Date(text).toLocaleTimeString(undefined, { timeStyle: "short" });
