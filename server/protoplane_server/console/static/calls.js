// Calls of methods: requests, answers and errors, as the HTTP door has them.

import { apiKey } from "./settings.js";
import { readEvents } from "./sse.js";

/** Where the component is: the folder that the page is in. */
export const root = new URL("./", location.href);

/** Address of a path of the component. */
export const address = (path) => new URL(`.${path}`, root);

/** A call that failed, by the code and the words of the component. */
export class CallError extends Error {
  constructor(code, message, { status = 0, details = [] } = {}) {
    super(message);
    this.code = code;
    this.status = status;
    this.details = details;
  }

  /** What the component says of single fields: `{field, description}`. */
  get fieldViolations() {
    return this.details.flatMap((each) => each.debug?.fieldViolations ?? []);
  }
}

/** Whether a failure means that somebody pressed Stop. */
export const wasStopped = (error) => error?.name === "AbortError";

/** Ask, with the API key. Gives a response whose status is good, else throws `CallError`. */
export async function ask(path, { method = "GET", headers = {}, body, signal } = {}) {
  const sent = new Headers(headers);
  if (apiKey()) sent.set("authorization", `Bearer ${apiKey()}`);
  let response;
  try {
    response = await fetch(address(path), { method, headers: sent, body, signal, cache: "no-store" });
  } catch (error) {
    if (wasStopped(error)) throw error;
    throw new CallError("unreachable", "the component does not answer; is it still running?");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** A GET whose answer is JSON. */
export const getJson = async (path, options) => (await ask(path, options)).json();

/** A unary method. `text` is JSON; so is the answer, parsed. */
export async function callUnary(path, text, options = {}) {
  const response = await ask(path, posted(text, "application/json", options));
  return response.json();
}

/** A method that streams its answer: yields messages, throws `CallError` where it fails midway. */
export async function* callStream(path, text, options = {}) {
  const asked = posted(text, "application/json", options);
  asked.headers.accept = "text/event-stream";
  const response = await ask(path, asked);
  for await (const event of readEvents(response.body)) {
    if (event.type === "end") return;
    if (event.type === "error") throw callError(JSON.parse(event.data));
    yield JSON.parse(event.data);
  }
  throw brokenOff();
}

/** The error of a stream that has no end. */
export const brokenOff = () =>
  new CallError("unavailable", "the stream broke off before its end; what came so far stands");

/** The request of a call. */
export function posted(text, type, { signal, timeoutS } = {}) {
  const headers = { "content-type": type, "connect-protocol-version": "1" };
  if (timeoutS) headers["connect-timeout-ms"] = String(Math.ceil(timeoutS * 1000));
  return { method: "POST", headers, body: text, signal };
}

/** An error from the JSON that tells it: Connect's form, or OpenAI's. */
export function callError(document, status = 0) {
  const error = document.error ?? document;
  return new CallError(error.code ?? error.type ?? "unknown", error.message ?? "it says no more", {
    status,
    details: error.details ?? [],
  });
}

async function failure(response) {
  const text = await response.text();
  try {
    return callError(JSON.parse(text), response.status);
  } catch {
    const words = text.trim().slice(0, 500) || response.statusText;
    return new CallError(`http ${response.status}`, words, { status: response.status });
  }
}
