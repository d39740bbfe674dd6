// Pictures on their way to the API.

import { call } from "./api.js";

export const TYPES = "image/png,image/jpeg,image/webp";

/** The picture in a `data:` address, as some programs copy one; null for any other text. */
export function pictureIn(text) {
  const [, type, base64] = /^\s*data:(image\/[a-z0-9.+-]+);base64,([a-z0-9+/=\s]+)$/i.exec(text) ?? [];
  if (!type) return null;
  try {
    return new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], "pasted", { type });
  } catch {
    return null; // it was cut
  }
}

/** Send a picture that jobs may start from; its id. */
export async function send(file, signal) {
  const body = new FormData();
  body.append("file", file);
  return (await call("POST", "v1/inputs", { body, signal })).input.id;
}

/**
 * The same picture as this browser shows it. Of a WebP some browsers pass over the orientation in its EXIF, which the
 * API applies: what is painted on one would lie elsewhere on the other. So it becomes a PNG that says none.
 */
export async function asShown(file) {
  if (!(await hasExif(file))) return file;
  const picture = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return new File([await canvas.convertToBlob()], "picture.png", { type: "image/png" });
}

/** Whether it is a WebP whose head says that it has EXIF. */
async function hasExif(file) {
  const head = new Uint8Array(await file.slice(0, 21).arrayBuffer());
  const text = String.fromCharCode(...head.subarray(8, 16));
  return text === "WEBPVP8X" && (head[20] & 8) !== 0;
}
