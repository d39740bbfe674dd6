// The progress stream of a job. An EventSource cannot send a key, so this reads the response itself.

import { send } from "./api.js";

const LONGEST_PAUSE_MS = 10_000;

/** Messages `{event, data}` of a job, each event once, until it has ended. Raises `ApiError`. */
export async function* follow(jobId, signal) {
  let last = null;
  let pause = 1000;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const response = await send("GET", `v1/jobs/${jobId}/progress/stream`, { headers, signal });
      if (response.status === 204) return;
      for await (const message of messages(response.body)) {
        pause = 1000;
        if (message.id) last = message.id;
        yield { event: message.event, data: JSON.parse(message.data) };
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status && error.status !== 503 && error.status !== 429) throw error;
      await sleep(pause, signal);
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  }
}

/** The messages in a body of `text/event-stream`; comments and messages without data are left out. */
async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
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

function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
