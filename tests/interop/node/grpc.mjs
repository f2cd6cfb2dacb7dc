// A gRPC client with @grpc/grpc-js. It has no generated code: it reads the .proto files themselves.
//
//   node grpc.mjs TARGET SERVICE PROTO_FILE INCLUDE_FOLDER…
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { answerLines } from "./lines.mjs";

const [target, serviceName, file, ...includeDirs] = process.argv.slice(2);
const schema = grpc.loadPackageDefinition(
  loader.loadSync(file, { includeDirs, enums: String, longs: String, oneofs: true }),
);
const Service = serviceName.split(".").reduce((at, part) => at[part], schema);
const client = new Service(target, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": 64 << 20,
});

function metadataOf(wanted) {
  const metadata = new grpc.Metadata();
  for (const [name, value] of Object.entries(wanted)) {
    metadata.set(name, name.endsWith("-bin") ? Buffer.from(value, "base64") : value);
  }
  return metadata;
}

function outcome(status, messages) {
  const trailers = {};
  let details = "";
  for (const name of Object.keys(status.metadata.getMap())) {
    const [value] = status.metadata.get(name);
    const text = Buffer.isBuffer(value) ? value.toString("base64") : value;
    if (name === "grpc-status-details-bin") details = text;
    else trailers[name] = text;
  }
  return { messages, code: status.code, message: status.details, details, trailers };
}

function perform(wanted) {
  const { requestStream, responseStream } = Service.service[wanted.method];
  const metadata = metadataOf(wanted.metadata);
  const options = wanted.timeout_ms ? { deadline: Date.now() + wanted.timeout_ms } : {};
  const messages = [];
  return new Promise((resolve) => {
    const single = (_error, response) => response && messages.push(response);
    const first = [
      ...(requestStream ? [] : [wanted.requests[0]]),
      metadata,
      options,
      ...(responseStream ? [] : [single]),
    ];
    const call = client[wanted.method](...first);
    const left = requestStream ? [...wanted.requests] : [];
    const sendNext = () => {
      if (left.length) call.write(left.shift());
      else if (wanted.half_close) call.end();
    };
    const ended = new Promise((done) => {
      if (!responseStream) return done();
      call.on("data", (message) => {
        messages.push(message);
        if (messages.length === wanted.cancel_after) call.cancel();
        else if (wanted.lockstep) sendNext();
      });
      call.on("end", done);
      call.on("error", done);
    });
    call.on("status", (status) => ended.then(() => resolve(outcome(status, messages))));
    if (requestStream && wanted.lockstep) sendNext();
    else if (requestStream) while (left.length || wanted.half_close) {
      const last = !left.length;
      sendNext();
      if (last) break;
    }
  });
}

await answerLines(perform);
