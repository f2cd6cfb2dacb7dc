// A client of the Connect, gRPC-Web and gRPC protocols with @connectrpc/connect-node. It has no
// generated code: the schema is a descriptor set.
//
//   node connect.mjs PROTOCOL FORMAT URL SERVICE DESCRIPTOR_SET
import { readFileSync } from "node:fs";
import {
  createFileRegistry,
  fromBinary,
  fromJson,
  toBinary,
  toJson,
  create,
} from "@bufbuild/protobuf";
import { AnySchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { ConnectError, createClient } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { answerLines } from "./lines.mjs";

const [protocol, format, baseUrl, serviceName, descriptors] = process.argv.slice(2);
const registry = createFileRegistry(
  fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)),
);
const transports = {
  connect: () => createConnectTransport({ baseUrl, httpVersion: "1.1", ...shape }),
  "grpc-web": () => createGrpcWebTransport({ baseUrl, httpVersion: "1.1", ...shape }),
  grpc: () => createGrpcTransport({ baseUrl, ...shape }),
};
const shape = { useBinaryFormat: format === "binary" };
const service = registry.getService(serviceName);
const client = createClient(service, transports[protocol]());

async function perform(wanted) {
  const method = service.methods.find(({ name }) => name === wanted.method);
  const clientStreams = ["client_streaming", "bidi_streaming"].includes(method.methodKind);
  const serverStreams = ["server_streaming", "bidi_streaming"].includes(method.methodKind);
  const requests = wanted.requests.map((json) => fromJson(method.input, json));
  const messages = [];
  const trailers = {};
  const note = (headers) => {
    for (const [name, value] of headers) {
      trailers[name] = name.endsWith("-bin") ? padded(value) : value;
    }
  };
  const stop = new AbortController();
  const options = {
    headers: wanted.metadata,
    signal: stop.signal,
    timeoutMs: wanted.timeout_ms || undefined,
    onTrailer: note,
  };
  async function* sending() {
    yield* requests;
    // A call that is left open ends by its deadline, or because it is cancelled.
    if (!wanted.half_close) {
      await new Promise((done) => stop.signal.addEventListener("abort", done));
    }
  }
  let failure = null;
  try {
    const answer = client[method.localName](clientStreams ? sending() : requests[0], options);
    const responses = serverStreams ? answer : [await answer];
    for await (const message of responses) {
      messages.push(toJson(method.output, message, { registry }));
      if (messages.length === wanted.cancel_after) stop.abort();
    }
  } catch (error) {
    failure = ConnectError.from(error);
    note(failure.metadata);
  }
  stop.abort();
  return {
    messages,
    code: failure ? failure.code : 0,
    message: failure ? failure.rawMessage : "",
    details: failure && failure.details.length ? statusOf(failure) : "",
    trailers,
  };
}

/** The error's details as the google.rpc.Status that gRPC sends, in base64. */
function statusOf(failure) {
  const schema = registry.getMessage("google.rpc.Status");
  const details = failure.details.map(({ type, value }) =>
    create(AnySchema, { typeUrl: `type.googleapis.com/${type}`, value }));
  const status = create(schema, { code: failure.code, message: failure.rawMessage, details });
  return Buffer.from(toBinary(schema, status)).toString("base64");
}

const padded = (value) => value + "=".repeat(-value.length & 3);

await answerLines(perform);
