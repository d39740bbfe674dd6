// The official client in JavaScript, unchanged: `base_url` alone is ours. Reads what to call from stdin, and
// writes what it got to stdout, as JSON.
const fs = require("fs");
const OpenAI = require("openai");

const { base, image, mask } = JSON.parse(fs.readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0 });
const file = (path, name) => OpenAI.toFile(fs.createReadStream(path), name, { type: "image/png" });

const quick = { quality: "low" };

async function generate() {
  const options = { headers: { "Idempotency-Key": "js-1" } };
  const body = { prompt: "a red apple", n: 2, size: "64x64", seed: 7, ...quick };
  const calls = [];
  for (let call = 0; call < 2; call += 1) {
    const { data, response } = await client.images.generate(body, options).withResponse();
    calls.push({
      job: response.headers.get("x-job-id"),
      pictures: data.data.map((each) => each.b64_json),
      size: data.size,
      usage: data.usage,
    });
  }
  return calls;
}

async function generateUrl() {
  const answer = await client.images.generate({
    prompt: "a red apple", response_format: "url", output_format: "jpeg", size: "auto", ...quick,
  });
  const stored = await fetch(answer.data[0].url);
  return {
    inline: answer.data[0].b64_json ?? null,
    type: stored.headers.get("content-type"),
    picture: Buffer.from(await stored.arrayBuffer()).toString("base64"),
  };
}

async function collect(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

async function edit() {
  const answer = await client.images.edit({
    image: await file(image, "image.png"), mask: await file(mask, "mask.png"), prompt: "a red apple",
    seed: 5, strength: 0.5, ...quick, // seed and strength are ours, beside theirs
  });
  return answer.data[0].b64_json;
}

async function errorOf(call) {
  try {
    await call();
  } catch (error) {
    const { status, code, param, type, message, requestID } = error;
    return { name: error.constructor.name, status, code, param, type, message, requestID };
  }
  throw new Error("it was not refused");
}

const stream = { stream: true, partial_images: 2, ...quick };

const calls = {
  models: async () => (await client.models.list()).data,
  generate,
  url: generateUrl,
  streamed: async () =>
    collect(await client.images.generate({ prompt: "a red apple", ...stream })),
  edit,
  edits_streamed: async () =>
    collect(await client.images.edit({ image: [await file(image, "a.png")], prompt: "x", ...stream })),
  wrong_size: () => errorOf(() => client.images.generate({ prompt: "x", size: "17x64" })),
  wrong_model: () => errorOf(() => client.images.generate({ prompt: "x", model: "gpt-image-2" })),
  wrong_key: () =>
    errorOf(() => client.images.generate({ prompt: "y" }, { headers: { "Idempotency-Key": "js-1" } })),
  wrong_image: () =>
    errorOf(async () =>
      client.images.edit({ image: await OpenAI.toFile(Buffer.from("no"), "a.png"), prompt: "x" }),
    ),
};

async function main() {
  const results = {};
  for (const [name, call] of Object.entries(calls)) {
    console.error(name); // what is shown where it does not end
    results[name] = await call();
  }
  return results;
}

main().then((result) => fs.writeSync(1, JSON.stringify(result)));
