// OpenAI's official client against a gateway: each step becomes a line of JSON.
//
//   node openai.mjs URL KEY
import OpenAI from "openai";

const [url, key] = process.argv.slice(2);
const tell = (step, what) => process.stdout.write(`${JSON.stringify({ step, ...what })}\n`);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const chat = (content, more = {}) => ({
  model: "parrot",
  messages: [{ role: "user", content }],
  ...more,
});

const failure = async (work) => {
  try {
    await work();
  } catch (error) {
    const { status, code, param, type, message } = error;
    return { name: error.constructor.name, status, code, param, type, message };
  }
  return { name: "nothing" };
};

const whole = await client.chat.completions.create(chat("a b", { temperature: 0, seed: 4 }));
tell("chat", { text: whole.choices[0].message.content, usage: whole.usage, id: whole._request_id });

const options = { stream: true, stream_options: { include_usage: true } };
const pieces = [];
let usage = null;
for await (const chunk of await client.chat.completions.create(chat("ä „b“ c", options))) {
  pieces.push(chunk.choices[0]?.delta.content ?? null);
  usage = chunk.usage ?? usage;
}
tell("stream", { pieces, usage });

const completion = await client.completions.create({ model: "parrot", prompt: "a b", max_tokens: 1 });
tell("completion", { choice: completion.choices[0] });

// The client asks for base64 unless it is told otherwise, and decodes it.
const vectors = await client.embeddings.create({ model: "vectors", input: ["a", "b"] });
tell("embeddings", { vectors: vectors.data.map((each) => each.embedding) });

const models = [];
for await (const model of client.models.list()) models.push(model.id);
tell("models", { models, one: (await client.models.retrieve("parrot/large")).id });

tell("key", await failure(() => client.withOptions({ apiKey: "wrong" }).models.list()));
tell("model", await failure(() => client.chat.completions.create({ ...chat("a"), model: "cat" })));
tell("parameter", await failure(() => client.chat.completions.create(chat("a", { n: 2 }))));
tell("away", await failure(() => client.chat.completions.create(chat("!fail"))));

const begun = [];
const middle = await failure(async () => {
  for await (const chunk of await client.chat.completions.create(chat("a !fail", { stream: true }))) {
    begun.push(chunk.choices[0].delta.content);
  }
});
tell("middle", { ...middle, begun });

const left = await client.chat.completions.create(chat("a !hang", { stream: true }));
for await (const chunk of left) {
  if (chunk.choices[0].delta.content === "a") break;
}
tell("left", {});

const few = client.withOptions({ apiKey: `${key}-few` });
let limited = { name: "nothing" };
for (let count = 0; count < 10_000 && limited.name === "nothing"; count += 1) {
  limited = await failure(() => few.chat.completions.create(chat("a")));
}
tell("limited", limited);
const again = await few.withOptions({ maxRetries: 8 }).chat.completions.create(chat("a"));
tell("again", { text: again.choices[0].message.content });
