// What is said of a method above its form.

import { breakable, el, prose } from "./dom.js";

/** What streams, in a word. */
export const KINDS = {
  unary: "unary", server_stream: "stream", client_stream: "client stream", bidi_stream: "bidirectional",
};

/** The head of a method: its name, its comment and its routes. */
export const methodHead = (service, method) => [
  el("h2", {}, el("span", { class: "dim" }, breakable(service.name), "/"), el("wbr"), method.name),
  el("p", { class: "tags" },
    el("span", { class: "badge" }, KINDS[method.kind]),
    method.idempotency === "unknown" ? null
      : el("span", { class: "badge" }, method.idempotency.replaceAll("_", " ")),
    method.deprecated ? el("span", { class: "badge left" }, "deprecated") : null,
    method.routes.map(({ verb, path }) => el("code", { class: "route" }, `${verb} `, breakable(path)))),
  method.doc ? el("p", { class: "doc" }, prose(method.doc)) : null,
];
