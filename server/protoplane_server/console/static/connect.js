// Methods that take a stream: Connect's framing. A browser sends all messages before it reads one.
// Source: https://connectrpc.com/docs/protocol/#streaming-rpcs

import { ask, brokenOff, callError, posted } from "./calls.js";

const END = 2;

/** Call with several messages, each JSON text; yields the messages of the answer. */
export async function* callFramed(path, texts, options = {}) {
  const response = await ask(path, posted(framed(texts), "application/connect+json", options));
  for await (const { flags, text } of frames(response.body)) {
    const message = JSON.parse(text || "{}");
    if (flags & END) {
      if (message.error) throw callError(message.error);
      return;
    }
    yield message;
  }
  throw brokenOff();
}

function framed(texts) {
  const encoder = new TextEncoder();
  return new Blob(texts.map((text) => {
    const data = encoder.encode(text);
    const frame = new Uint8Array(5 + data.length);
    new DataView(frame.buffer).setUint32(1, data.length);
    frame.set(data, 5);
    return frame;
  }));
}

async function* frames(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let have = new Uint8Array(0);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const joined = new Uint8Array(have.length + value.length);
    joined.set(have);
    joined.set(value, have.length);
    have = joined;
    while (have.length >= 5) {
      const size = new DataView(have.buffer, have.byteOffset).getUint32(1);
      if (have.length < 5 + size) break;
      yield { flags: have[0], text: decoder.decode(have.subarray(5, 5 + size)) };
      have = have.subarray(5 + size);
    }
  }
}
