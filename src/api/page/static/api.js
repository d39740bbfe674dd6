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

/** The response to a request; asks for a key where one is needed. Raises `ApiError`. */
export async function send(method, path, { body, headers = {}, signal } = {}) {
  for (;;) {
    const used = key();
    const all = used ? { ...headers, Authorization: `Bearer ${used}` } : headers;
    let response;
    try {
      response = await fetch(new URL(path, document.baseURI), { method, body, headers: all, signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw unreachable();
    }
    if (response.ok) return response;
    const problem = new ApiError(response.status, await envelope(response));
    if (response.status !== 401 || !(await askForKey(problem.message, used))) throw problem;
  }
}

/** What a request answers, as JSON; null where it has no body. */
export async function call(method, path, options = {}) {
  const { json, headers = {}, ...rest } = options;
  if (json !== undefined) {
    rest.body = JSON.stringify(json);
    headers["Content-Type"] = "application/json";
  }
  const response = await send(method, path, { ...rest, headers });
  return response.status === 204 ? null : response.json();
}

export const get = (path, signal) => call("GET", path, { signal });

async function envelope(response) {
  try {
    const body = await response.json();
    if (body.code) return body;
  } catch {
    // A proxy's own answer is no envelope.
  }
  return { code: "unreachable", message: `Something before the API answered ${response.status}.` };
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
