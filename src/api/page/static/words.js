// Numbers, times and names as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const NAME_LETTERS = 100;

export function bytes(count) {
  const power = count > 0 ? Math.min(Math.floor(Math.log2(count) / 10), UNITS.length - 1) : 0;
  const value = count / 1024 ** power;
  return `${value >= 100 || power === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[power]}`;
}

export function seconds(count) {
  if (count < 10) return `${Math.round(10 * count) / 10} s`;
  if (count < 90) return `${Math.round(count)} s`;
  if (count < 5400) return `${Math.round(count / 60)} min`;
  return `${(count / 3600).toFixed(1)} h`;
}

export function moment(text) {
  return new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** How long ago that was; clocks of this machine and the server may differ a little. */
export function age(text) {
  return seconds(Math.max(0, Math.round((Date.now() - new Date(text)) / 1000)));
}

/** The same as part of a sentence: "3 min ago". */
export function ago(text) {
  return Date.now() - new Date(text) < 2000 ? "just now" : `${age(text)} ago`;
}

const NAMES = { jpeg_quality: "JPEG quality", webp_quality: "WebP quality", loras: "LoRAs" };

/** `negative_prompt` as "Negative prompt". */
export function title(name) {
  if (name in NAMES) return NAMES[name];
  const text = name.replace(/_s$/, " (seconds)").replace(/_id$/, "").replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A prompt as a name: what is read out for each of many pictures is not a page long. */
export function short(text) {
  const letters = Array.from(text);
  return letters.length > NAME_LETTERS ? `${letters.slice(0, NAME_LETTERS - 1).join("").trimEnd()}…` : text;
}

export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** "3rd in line, likely to start in 12 to 40 s". */
export function place(queue) {
  if (!queue) return "Waiting for a slot";
  const where = queue.exact ? `Number ${queue.position} in line` : `More than ${queue.position - 1} in line before it`;
  const start = queue.starts_in_s;
  return start ? `${where}, likely to start in ${start.low} to ${seconds(start.high)}` : where;
}
