// The progress stream of a job. An EventSource cannot send a key, so this reads the response itself.

import { send, unreachable } from "./api.js";

/**
 * Messages `{event, data}` of a job after the one with the id `position.last`, as far as one connection goes; it
 * keeps `position` up to date. Returns whether the job has ended. Raises `ApiError`, also where a connection breaks.
 */
export async function* follow(jobId, position, signal) {
  const headers = { Accept: "text/event-stream", ...(position.last && { "Last-Event-ID": position.last }) };
  const response = await send("GET", `v1/jobs/${jobId}/progress/stream`, { headers, signal });
  if (response.status === 204) return true;
  for await (const message of messages(response.body)) {
    if (message.id) position.last = message.id;
    yield { event: message.event, data: parsed(message.data) };
  }
  return false;
}

/** What is no JSON was broken on its way; the messages after it are asked for. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw unreachable();
  }
}

/** The messages in a body of `text/event-stream`; comments and messages without data are left out. */
async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(() => { throw unreachable(); });
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const message = parse(block);
        if (message.data) yield message;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const message = { event: "message", data: "", id: null };
  for (const line of block.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const name = line.slice(0, colon);
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") message.data += value;
    else if (name === "event" || name === "id") message[name] = value;
  }
  return message;
}

/** Wait, but not longer than until `signal` ends it. */
export function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
