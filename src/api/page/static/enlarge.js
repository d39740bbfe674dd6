// A second step that makes each picture larger: by which factor, and by what.

import { field } from "./fields.js";

const NO = "no";

/** Models that enlarge, of those that the API lists. */
export function usableUpscalers(models) {
  return models.filter((model) => model.enabled && model.installed && model.capabilities.includes("upscale") && model.scale > 1);
}

/** `chain.upscale` for a picture that is drawn again, larger: as its upscaler was made for, else without a model. */
export function usualEnlarging(upscalers) {
  const scale = upscalers.find((model) => [2, 4].includes(model.scale))?.scale ?? 2;
  return { scale, impl: upscalers.length ? "auto" : "resample" };
}

/** The control for `chain` of a request. `schema` is that of `chain.upscale`. */
export function enlargeChoice(schema, upscalers) {
  const ways = new Map([[NO, undefined]]);
  const names = upscalers.map((model) => `${model.name}@${model.version}`);
  for (const scale of schema.properties.scale.enum) {
    if (names.length) ways.set(`${scale}×`, { scale, impl: "auto" });
    // Among several equally good ones the API does not choose.
    if (names.length > 1) for (const name of names) ways.set(`${scale}× by ${name}`, { scale, model_id: name });
    ways.set(`${scale}× without a model`, { scale, impl: "resample" });
  }
  const control = field("chain", { enum: [...ways.keys()], default: NO, description: schema.description }, { label: "Enlarge" });
  const { read, write } = control;
  control.read = () => {
    const upscale = ways.get(read());
    return upscale && { upscale };
  };
  control.write = (chain) => {
    const wanted = chain?.upscale ?? undefined;
    const known = [...ways].find(([, way]) => same(way, wanted))?.[0];
    write(known ?? another(wanted));
  };
  /** A way that a request has and this list does not: a choice of its own. */
  const another = (upscale) => {
    const by = [upscale.impl, upscale.model_id].filter(Boolean).join(" by ");
    const label = [`${upscale.scale}×`, by || "auto", upscale.strict_scale && "strictly"].filter(Boolean).join(" ");
    ways.set(label, upscale);
    control.element.querySelector("select").append(new Option(label));
    return label;
  };
  return control;
}

const same = (one, other) => JSON.stringify(one && settings(one)) === JSON.stringify(other && settings(other));

const settings = ({ scale, impl, model_id: model, strict_scale: strict }) => [scale, impl ?? "auto", model ?? null, strict ?? false];
