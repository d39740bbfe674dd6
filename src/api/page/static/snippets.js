// The request that the form makes, as it is sent from a shell or from Python.

import { announce, h } from "./dom.js";
import { key } from "./key.js";

/** An element that shows both; `update(request)` draws them anew. */
export function snippets() {
  const shell = h("pre", { tabIndex: 0, "aria-label": "The request for curl" });
  const python = h("pre", { tabIndex: 0, "aria-label": "The request in Python" });
  const element = h("details", { className: "snippets" },
    h("summary", {}, "The same from your program"),
    block("curl", shell),
    block("Python", python));
  const update = (request) => {
    shell.textContent = curl(request);
    python.textContent = inPython(request);
  };
  return { element, update };
}

function block(name, pre) {
  const copy = h("button", { type: "button", className: "quiet", onclick: async () => {
    await copyText(pre);
    copy.textContent = "Copied";
    announce(`${name} copied`);
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  } }, "Copy");
  return h("section", {}, h("h3", {}, name, " ", copy), pre);
}

/** The clipboard belongs to secure pages; elsewhere the text is selected, to be copied by hand. */
async function copyText(pre) {
  try {
    await navigator.clipboard.writeText(pre.textContent);
  } catch {
    getSelection().selectAllChildren(pre);
  }
}

const base = () => new URL(".", document.baseURI).href.replace(/\/$/, "");

function curl(request) {
  const body = JSON.stringify(request).replaceAll("'", "'\\''");
  const lines = [`curl -s ${base()}/v1/jobs`, "-H 'Content-Type: application/json'"];
  if (key()) lines.push('-H "Authorization: Bearer $DF_API_KEY"');
  return [...lines, `-d '${body}'`].join(" \\\n  ");
}

function inPython(request) {
  const headers = key() ? ', headers={"Authorization": f"Bearer {os.environ[\'DF_API_KEY\']}"}' : "";
  return [
    ...(key() ? ["import os", ""] : []),
    "import httpx",
    "",
    `api = httpx.Client(base_url="${base()}", timeout=90${headers})`,
    `request = ${literal(request)}`,
    'job = api.post("/v1/jobs", json=request, headers={"Prefer": "wait=60"}).raise_for_status().json()["job"]',
    `for picture in api.get(f"/v1/jobs/{job['id']}/artifacts").json()["artifacts"]:`,
    '    print(picture["url"])',
  ].join("\n");
}

function literal(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${literal(v)}`).join(", ")}}`;
  return JSON.stringify(value);
}
