// A failure as people need it: its code, what that means, what to do.

import { h, prose } from "./dom.js";

// What people do about it here; docs/errors.md speaks to programs.
const HERE = {
  unreachable: {
    means: "No answer came from the API: it is not running, or the network between is down.",
    todo: "check that `dreamforge up` runs, then try again.",
  },
  unauthorized: {
    means: "This API answers to those who have a key.",
    todo: "try again, and give a key. The operator of this API makes keys.",
  },
};
let explanations;

/** A box for `{code, message, details}` of a job or an `ApiError`; `again` is what a retry does. */
export function failure(problem, again = null) {
  const explained = h("div", {});
  const details = Object.keys(problem.details ?? {}).length > 0;
  explain(problem.code).then((text) => {
    if (!text) return;
    explained.append(
      h("p", {}, prose(text.means.replace(/^\d{3}[^.]*\. /, ""))),
      h("p", {}, h("strong", {}, "What to do: "), prose(text.todo)),
    );
  });
  return h("section", { className: "failure", role: "alert" },
    h("p", { className: "what" }, h("code", {}, problem.code), " ", h("span", {}, problem.message)),
    explained,
    details && h("details", {}, h("summary", {}, "Details"), h("pre", { tabIndex: 0 }, JSON.stringify(problem.details, null, 2))),
    problem.correlationId && h("p", { className: "dim" }, "Correlation id ", h("code", {}, problem.correlationId)),
    again && h("p", { className: "actions" }, h("button", { type: "button", onclick: again }, "Try again")));
}

/** The place of a failure of something that is tried again and again: the same one is told once. */
export class Problem {
  constructor(signal) {
    this.signal = signal;
    this.note = null; // what is said below each failure
    this.again = null; // another try, where nothing but one by hand can succeed
    this.shown = null;
    this.element = h("div", {});
  }

  /** Show what was caught; raises it again where it is no failure of a request. */
  show(error) {
    if (this.signal.aborted) return;
    if (!error.code) throw error;
    const shown = `${error.code} ${error.message}`;
    if (this.shown === shown) return;
    this.shown = shown;
    const told = failure(error, error.status === 401 ? this.again : null);
    if (this.note) told.append(h("p", { className: "dim" }, this.note));
    this.element.replaceChildren(told);
  }

  /** Whether there was one. */
  clear() {
    const before = this.shown;
    this.shown = null;
    this.element.replaceChildren();
    return before !== null;
  }
}

async function explain(code) {
  if (code in HERE) return HERE[code];
  explanations ??= fetch(new URL("page/errors.json", document.baseURI)).then((response) => response.json());
  try {
    return (await explanations)[code];
  } catch {
    explanations = undefined; // it is shown without, and asked for at the next failure
    return null;
  }
}
