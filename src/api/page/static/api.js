// Requests to the API that this page comes from. Addresses are relative, so a proxy may put both below a path.

import { askForKey, key } from "./key.js";

/** An answer that is no success, or none at all (`code` "unreachable"). */
export class ApiError extends Error {
  constructor(status, body) {
    super(body.message);
    this.status = status;
    this.code = body.code;
    this.details = body.details ?? {};
    this.correlationId = body.correlation_id ?? null;
  }
}

const UNREACHABLE = { code: "unreachable", message: "The API did not answer." };

/** No answer came, or it broke off. */
export const unreachable = () => new ApiError(0, UNREACHABLE);

/** The response to a request; where a key is needed, `asks` says whether to ask for one. Raises `ApiError`. */
export async function send(method, path, { body, headers = {}, signal, asks = true } = {}) {
  for (;;) {
    const used = key();
    const all = used ? { ...headers, Authorization: `Bearer ${inBytes(used)}` } : headers;
    const began = performance.now();
    let response;
    try {
      response = await fetch(new URL(path, document.baseURI), { method, body, headers: all, signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw unreachable();
    }
    if (response.ok) return response;
    const problem = new ApiError(response.status, await envelope(response));
    if (response.status !== 401 || !asks || !(await askForKey(problem.message, used, began))) throw problem;
  }
}

/** A header takes bytes: those of the text in UTF-8, as a shell sends them. A browser refuses other letters. */
const inBytes = (text) => String.fromCharCode(...new TextEncoder().encode(text));

/** What a request answers, as JSON; null where it has no body. */
export async function call(method, path, options = {}) {
  const { json, headers = {}, ...rest } = options;
  if (json !== undefined) {
    rest.body = JSON.stringify(json);
    headers["Content-Type"] = "application/json";
  }
  const response = await send(method, path, { ...rest, headers });
  return response.status === 204 ? null : content(response);
}

export const get = (path, signal, options = {}) => call("GET", path, { ...options, signal });

/** A success whose body breaks off, or is another server's page, is no answer of the API. */
async function content(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) throw notOurs(response);
    throw unreachable();
  }
}

const notOurs = ({ status }) => new ApiError(0, { code: "unreachable", message: between(status) });

const between = (status) => `Something before the API answered ${status}.`;

async function envelope(response) {
  try {
    const body = await response.json();
    if (body.code) return body;
  } catch {
    // A proxy's own answer is no envelope.
  }
  return { code: "unreachable", message: between(response.status) };
}

/** Create a job; its id. A lost answer is asked for again with the same key, so there is one job. */
export async function createJob(request, signal) {
  const options = { json: request, signal, headers: { "Idempotency-Key": randomId() } };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return (await call("POST", "v1/jobs", { ...options, headers: { ...options.headers } })).job.id;
    } catch (error) {
      if (error.code !== "unreachable" || attempt === 3) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * attempt));
    }
  }
}

/** `crypto.randomUUID` exists on https and localhost only. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

let described;

/** The OpenAPI document: what this API takes. Read once. */
export function description() {
  described ??= get("openapi.json").catch((error) => {
    described = undefined;
    throw error;
  });
  return described;
}
