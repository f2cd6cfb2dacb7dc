// Uses the planes of a component with @grpc/grpc-js, from the .proto files themselves: publishes and
// follows events, takes part in a consumer group, sets state, watches discovery, and uploads and
// downloads an object that breaks off in the middle both times. Each step prints a line of JSON.
//
//   node planes.mjs TARGET INCLUDE_FOLDER…
import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { blake2b } from "@noble/hashes/blake2.js";

const [target, ...includeDirs] = process.argv.slice(2);
const files = ["event_plane", "discovery", "state", "objects"];
const schema = grpc.loadPackageDefinition(
  loader.loadSync(
    files.map((name) => `protoplane/v1/${name}.proto`),
    { includeDirs, enums: String, longs: Number, oneofs: true, defaults: true },
  ),
).protoplane.v1;
const connect = (Service) => new Service(target, grpc.credentials.createInsecure());
const tell = (step, found = {}) => process.stdout.write(`${JSON.stringify({ step, ...found })}\n`);
const ask = (client, method, request) => promisify(client[method]).call(client, request);
const digest = (bytes) => Buffer.from(blake2b(bytes, { dkLen: 32 })).toString("hex");

async function take(stream, enough) {
  for await (const answer of stream) {
    const found = enough(answer);
    if (found !== undefined) return found;
  }
  throw new Error("the stream ended");
}

// Leaving a `for await` destroys the stream, so what goes on is read step by step.
const reader = (stream) => {
  const steps = stream[Symbol.asyncIterator]();
  return async (enough) => {
    for (;;) {
      const { done, value } = await steps.next();
      assert(!done, "the stream ended");
      const found = enough(value);
      if (found !== undefined) return found;
    }
  };
};

async function events() {
  const plane = connect(schema.EventPlane);
  const stream = plane.Subscribe({ expressions: ["mill/**"], form: "EVENT_FORM_JSON" });
  const next = reader(stream);
  await next((answer) => answer.position || undefined);
  const event = { type: "mill.v1.Ground", jsonText: '{"kilos":3}' };
  const { id } = await ask(plane, "Publish", { ...event, key: "mill/1" });
  const seen = await next((answer) => answer.events[0]);
  assert.deepEqual([seen.id, seen.key, seen.jsonText], [id, "mill/1", '{"kilos":3}']);

  const publishing = plane.PublishStream();
  const ids = [];
  const answered = (async () => {
    for await (const answer of publishing) ids.push(answer.id);
  })();
  for (let number = 0; number < 100; number += 1) {
    publishing.write({ event: { ...event, key: `mill/${number}` } });
  }
  publishing.end();
  await answered;
  const got = [];
  await next((answer) => {
    got.push(...answer.events.map((each) => each.id));
    return got.length >= 100 ? true : undefined;
  });
  assert.deepEqual(got, ids);
  stream.cancel();
  tell("events", { id, count: got.length });

  const member = plane.Subscribe({ expressions: ["mill/**"], group: "millers", after: "earliest" });
  const tokens = [];
  await reader(member)((answer) => {
    tokens.push(...answer.events.map((each) => each.token));
    // Of one key comes one at a time: mill/1 was published twice.
    return tokens.length >= 100 ? true : undefined;
  });
  await ask(plane, "Ack", { tokens });
  member.cancel();
  tell("group", { count: tokens.length });

  const refused = await ask(plane, "Publish", { ...event, key: "*" }).catch((error) => error.code);
  assert.equal(refused, grpc.status.INVALID_ARGUMENT);
}

async function state() {
  const plane = connect(schema.State);
  const watching = plane.Watch({ expression: "mill/**" });
  const next = reader(watching);
  await next((answer) => answer.snapshot ?? undefined);
  const put = { key: "mill/plan", value: Buffer.from("first") };
  const { revision } = await ask(plane, "Put", { ...put, expectedRevision: 0 });
  const entry = await next((answer) => answer.entry ?? undefined);
  assert.deepEqual([entry.key, entry.value.toString(), entry.revision], ["mill/plan", "first", revision]);
  const stale = await ask(plane, "Put", { ...put, expectedRevision: 0 }).catch((error) => error.code);
  assert.equal(stale, grpc.status.ABORTED);
  const second = { key: "mill/plan", value: Buffer.from("second"), expectedRevision: revision };
  await ask(plane, "Put", second);
  watching.cancel();
  tell("state", { revision });
}

async function discovery() {
  const plane = connect(schema.Discovery);
  const { instances } = await ask(plane, "Instances", {});
  const watching = plane.Watch({ path: "forge" });
  const next = reader(watching);
  await next((answer) => !answer.more || undefined);
  tell("watching", { instances: instances.map((each) => each.name) });
  const change = await next((answer) => answer.changes[0]);
  watching.cancel();
  tell("joined", { kind: change.kind, name: change.instance.name });
}

async function objects() {
  const plane = connect(schema.Objects);
  const bytes = randomBytes(3_000_000);
  const upload = randomUUID();
  const header = { key: "mill/flour", size: bytes.length, digest: digest(bytes), upload };
  const send = (call, from, to) => {
    for (let at = from; at < to; at += 65536) {
      call.write({ data: bytes.subarray(at, Math.min(at + 65536, to)) });
    }
  };

  // The connection breaks in the middle: this call is cancelled.
  const broken = plane.Put(() => {});
  broken.on("error", () => {});
  broken.write({ header });
  send(broken, 0, 1_000_000);
  let received = 0;
  while (received < 500_000) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    ({ received } = await ask(plane, "Upload", { upload }).catch(() => ({ received: 0 })));
  }
  broken.cancel();
  ({ received } = await ask(plane, "Upload", { upload }));
  const info = await new Promise((resolve, reject) => {
    const call = plane.Put((error, answer) => (error ? reject(error) : resolve(answer.info)));
    call.write({ header: { ...header, offset: received } });
    send(call, received, bytes.length);
    call.end();
  });
  assert.equal(info.digest, digest(bytes));

  const parts = [];
  const { etag } = await take(plane.Get({ key: header.key }), (answer) => answer.info ?? undefined);
  let came = 0;
  const half = plane.Get({ key: header.key });
  half.on("error", () => {});
  await take(half, (answer) => {
    parts.push(answer.data);
    came += answer.data.length;
    return came > 1_000_000 ? came : undefined;
  });
  half.cancel();
  for await (const answer of plane.Get({ key: header.key, start: came, etag })) {
    parts.push(answer.data);
  }
  const whole = Buffer.concat(parts);
  assert.equal(digest(whole), info.digest);
  assert(whole.equals(bytes));
  tell("objects", { resumedAt: received, size: info.size, digest: info.digest });
}

await events();
await state();
await objects();
await discovery();
process.exit(0);
