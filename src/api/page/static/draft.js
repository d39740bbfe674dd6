// What the form starts with: a request that a picture or a job was made from.

const NAME = "dreamforge.draft";
let draft = null;

/** Go to the form, with this request in it. */
export function edit(request) {
  remember(request);
  location.hash = "#/create";
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
