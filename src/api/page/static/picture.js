// One picture large, with everything that made it.

import { description, get } from "./api.js";
import { announce, h, open } from "./dom.js";
import { edit } from "./draft.js";
import { usableUpscalers, usualEnlarging } from "./enlarge.js";
import { failure } from "./failure.js";
import { missing } from "./missing.js";
import { bytes, moment, short, title } from "./words.js";

const LEFT_OUT = ["type", "prompt", "negative_prompt", "seed", "count", "width", "height"];

const QUALITY_OF = { jpg: "jpeg", webp: "webp" };

/** Open the picture at `index`; the arrow keys go to its neighbours. `jobOf` gives an artifact's job. */
export function openPicture(artifacts, index, jobOf, { onDelete = null } = {}) {
  const image = h("img", { onload: () => stage.replaceChildren(image), onerror: () => stage.replaceChildren(missing()) });
  const stage = h("div", { className: "stage" }, image);
  const facts = h("div", { className: "facts" });
  const dialog = h("dialog", { className: "picture", "aria-label": "Picture", onkeydown: (event) => turn(event) },
    stage,
    h("div", { className: "side" },
      h("form", { method: "dialog", className: "actions" },
        artifacts.length > 1 && h("button", { type: "button", "aria-label": "The picture before", onclick: () => go(-1) }, "←"),
        artifacts.length > 1 && h("button", { type: "button", "aria-label": "The next picture", onclick: () => go(1) }, "→"),
        h("button", { className: "quiet", autofocus: true }, "Close")),
      facts));
  const go = (by) => {
    index = (index + by + artifacts.length) % artifacts.length;
    announce(`${index + 1} of ${artifacts.length}: ${short(jobOf(artifacts[index]).request?.prompt ?? "Picture")}`);
    show();
  };
  const turn = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && artifacts.length > 1) go(by);
  };
  const show = async () => {
    const artifact = artifacts[index];
    const job = jobOf(artifact);
    try {
      if (Date.parse(artifact.expires_at) < Date.now()) await renew(artifact, job);
      if (artifact !== artifacts[index]) return; // another one was turned to meanwhile
      image.src = artifact.url;
      image.width = artifact.width;
      image.height = artifact.height;
      image.alt = short(job.request?.prompt ?? "Picture");
      const described = await describe(artifact, job, { dialog, complain, onDelete });
      if (artifact === artifacts[index]) fill(...described);
    } catch (error) {
      if (!error.code) throw error;
      fill(failure(error, show));
    }
  };
  /** The arrow keys reach the dialog only while the focus is in it. */
  const fill = (...content) => {
    const focused = facts.contains(document.activeElement);
    facts.replaceChildren(...content);
    if (focused) dialog.querySelector("[autofocus]").focus();
  };
  const complain = (error) => {
    if (!error.code) throw error;
    facts.prepend(failure(error));
  };
  show();
  return open(dialog);
}

async function describe(artifact, listed, { dialog, complain, onDelete }) {
  const job = listed.request ? listed : await get(`v1/jobs/${listed.id}`);
  const asked = job.request ?? {};
  const leave = (request) => { dialog.close(); edit(request); };
  const { chain, ...alone } = asked;
  const same = { ...alone, seed: artifact.seed, count: 1 };
  const { seed, ...fresh } = asked;
  const enlarge = async () => {
    const { models } = await get("v1/models");
    leave({ ...same, chain: { upscale: usualEnlarging(usableUpscalers(models)) } });
  };
  const { components } = await description();
  const takesImages = "image" in components.schemas.CreateJob.properties;
  const rows = [
    ["Avoided", asked.negative_prompt],
    ["Seed", artifact.seed],
    ["Size", `${artifact.width} × ${artifact.height}, ${bytes(artifact.size_bytes)}`],
    ...made({ ...job.parameters, ...asked }, artifact.format),
    ["Made", moment(artifact.created_at)],
    ["SHA-256", h("code", {}, artifact.sha256)],
    ["Job", h("a", { href: `#/jobs/${job.id}`, onclick: () => dialog.close() }, h("code", {}, job.id))],
  ];
  return [
    h("h2", { dir: "auto" }, asked.prompt ?? "Picture"),
    h("p", { className: "actions" },
      h("button", { type: "button", onclick: () => leave(same) }, "Draw it again"),
      h("button", { type: "button", onclick: () => leave(fresh) }, "Vary the seed"),
      !chain && h("button", { type: "button", onclick: () => enlarge().catch(complain) }, "Enlarge"),
      takesImages && h("button", { type: "button", onclick: () => leave({ ...same, seed: undefined, image: artifact.id }) }, "Start from it"),
      h("a", { className: "button", href: artifact.url, target: "_blank", rel: "noopener" }, "Open the file"),
      onDelete && h("button", { type: "button", className: "danger", onclick: () => onDelete(job, dialog).catch(complain) }, "Delete")),
    h("dl", {}, rows.filter(([, value]) => ![undefined, null, ""].includes(value)).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
  ];
}

/** What made it, without what is nothing, or of another format. */
function made(values, format) {
  const told = ([name, value]) => !LEFT_OUT.includes(name) && value !== null && value.length !== 0 && !(name.endsWith("_quality") && !name.startsWith(QUALITY_OF[format] ?? "?"));
  return Object.entries(values).filter(told).map(([name, value]) => [title(name), shown(value)]);
}

/** A new address of the file, for a page that was left open. */
async function renew(artifact, job) {
  const { artifacts } = await get(`v1/jobs/${job.id}/artifacts`);
  Object.assign(artifact, artifacts.find((each) => each.id === artifact.id));
}

function shown(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (value?.constructor === Object && Object.values(value).every((each) => typeof each === "string")) return Object.entries(value).map((pair) => pair.join("=")).join(", ");
  return value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
}
