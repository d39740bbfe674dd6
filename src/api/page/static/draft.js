// What the form starts with: a request that a picture or a job was made from.

const NAME = "dreamforge.draft";
const HERE = ["", "#/create"];
const EDITED = "draft";
let draft = null;

/** Go to the form, with this request in it. A form that is shown already takes it over. */
export function edit(request) {
  remember(request);
  if (HERE.includes(location.hash)) document.dispatchEvent(new Event(EDITED));
  else location.hash = "#/create";
}

/** Call `fill` with each request that is edited while the form is shown. */
export function onEdit(signal, fill) {
  document.addEventListener(EDITED, () => fill(draft), { signal });
}

/** The newest request that was edited or sent in this tab; null where there is none. */
export function latest() {
  try {
    draft ??= JSON.parse(sessionStorage.getItem(NAME));
  } catch {
    draft ??= null;
  }
  return draft;
}

export function remember(request) {
  draft = request;
  try {
    sessionStorage.setItem(NAME, JSON.stringify(request));
  } catch {
    // It lives as long as the page.
  }
}
