// Pictures on their way to the API.

import { call } from "./api.js";

export const TYPES = "image/png,image/jpeg,image/webp";

/** Send a picture that jobs may start from; its id. */
export async function send(file, signal) {
  const body = new FormData();
  body.append("file", file);
  return (await call("POST", "v1/inputs", { body, signal })).input.id;
}
