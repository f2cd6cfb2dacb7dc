// One method: a form or JSON, a call, and what it answers.

import { callStream, callUnary, wasStopped } from "./calls.js";
import { callFramed } from "./connect.js";
import { curlCommand } from "./curl.js";
import { button, copyButton, el, freshId } from "./dom.js";
import { messageForm, pathOf } from "./form.js";
import { methodHead } from "./method_head.js";
import { Replies } from "./replies.js";
import { count, seconds } from "./text.js";

/** The view; `stop` ends a call that runs, and says whether there was one. */
export function methodView({ api, schemas, announce }, service, method) {
  const shape = schemas.message(method.request);
  const form = shape.kind === "message" ? messageForm(schemas, shape) : null;
  const sendsMany = method.kind === "client_stream" || method.kind === "bidi_stream";
  const messages = [];
  let abort = null;

  const raw = el("textarea", {
    class: "grows code", rows: "6", spellcheck: "false", "aria-label": "Request as JSON", value: "{}",
  });
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const formPlace = el("div", {}, form?.node);
  const rawPlace = el("div", { hidden: true }, raw);
  const asJson = el("input", { type: "checkbox", id: freshId(), role: "switch", change: () => swap() });
  const deadline = el("input", {
    type: "number", id: freshId(), min: "0", step: "any", class: "short", placeholder: "none",
  });
  const queued = el("ol", { class: "rows" });
  const send = el("button", { type: "submit", class: "main" }, "Send");
  const stopping = button("Stop", () => stop(), { hidden: true });
  const replies = new Replies();
  const node = el("section", { class: "method", "aria-label": method.path },
    methodHead(service, method),
    el("form", { class: "request", submit: (event) => { event.preventDefault(); call(); }, keydown: hotkey },
      el("div", { class: "bar" },
        el("h3", {}, "Request ", el("span", { class: "type" }, method.request)),
        el("label", { class: "switch", for: asJson.id }, asJson, " As JSON")),
      formPlace, rawPlace, problem,
      sendsMany ? el("div", {},
        button("Add this message to the stream", () => queue(), { class: "quiet" }), queued) : null,
      el("div", { class: "actions" },
        send, stopping,
        method.kind === "unary" || method.kind === "server_stream"
          ? copyButton("Copy as curl", () => curl())
          : el("span", { class: "dim" }, "The stream is sent whole, then answered; curl cannot do that."),
        el("label", { class: "inline", for: deadline.id }, "Deadline, s ", deadline))),
    replies.node);
  if (!form) {
    asJson.checked = true;
    asJson.disabled = true;
    swap();
  }

  function hotkey(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      call();
    }
  }

  function complain(words) {
    problem.textContent = words;
    problem.hidden = !words;
  }

  /** The request as JSON text, or `null` where it is none; then it says why. */
  function text() {
    complain("");
    try {
      if (!asJson.checked) return JSON.stringify(form.get());
      JSON.parse(raw.value || "{}");
      return raw.value || "{}";
    } catch (error) {
      complain(asJson.checked ? `This is no JSON: ${error.message}` : `The form: ${error.message}.`);
      return null;
    }
  }

  function swap() {
    if (asJson.checked) {
      if (form) {
        let given = {};
        try { given = form.get(); } catch { /* What cannot be read stays in the form. */ }
        raw.value = JSON.stringify(given, null, 2);
      }
    } else {
      const written = parsed();
      if (written === null) { asJson.checked = true; return; }
      form.set(written);
      let shown = null;
      try { shown = form.get(); } catch { /* A value that no input takes: it is not the same. */ }
      if (!same(shown, written)) {
        asJson.checked = true;
        complain("The form cannot show all of this, so it stays JSON.");
        return;
      }
    }
    rawPlace.hidden = !asJson.checked;
    formPlace.hidden = asJson.checked;
  }

  function parsed() {
    try {
      complain("");
      return JSON.parse(raw.value || "{}");
    } catch (error) {
      complain(`This is no JSON: ${error.message}`);
      return null;
    }
  }

  function queue() {
    const message = text();
    if (message === null) return;
    messages.push(message);
    const item = el("li", {}, el("code", {}, message.length > 300 ? `${message.slice(0, 300)}…` : message),
      button("Remove", () => { messages.splice(messages.indexOf(message), 1); item.remove(); }, { class: "quiet" }));
    queued.append(item);
    announce(`${count(messages.length, "message")} to send`);
  }

  const timeoutS = () => Number(deadline.value) || undefined;
  const curl = () => curlCommand(method, text() ?? "{}", { withKey: api.instance.guarded, timeoutS: timeoutS() });

  async function call() {
    if (abort) return;
    const message = sendsMany && messages.length ? "" : text();
    if (message === null) return;
    const mine = (abort = new AbortController());
    const options = { signal: mine.signal, timeoutS: timeoutS() };
    const began = performance.now();
    send.disabled = true;
    stopping.hidden = false;
    replies.begin(method.kind !== "unary");
    let code = "ok";
    let error = null;
    try {
      if (method.kind === "unary") {
        replies.add(await callUnary(method.path, message, options));
      } else if (method.kind === "server_stream") {
        for await (const each of callStream(method.path, message, options)) replies.add(each);
      } else {
        const sent = messages.length ? messages : [message];
        for await (const each of callFramed(method.path, sent, options)) replies.add(each);
      }
    } catch (caught) {
      code = wasStopped(caught) ? "stopped" : caught.code ?? "failed";
      if (!wasStopped(caught)) error = caught;
    }
    abort = null;
    send.disabled = false;
    stopping.hidden = true;
    const took = seconds((performance.now() - began) / 1000);
    replies.end(code, took, error);
    announce(`${method.name}: ${code}, ${count(replies.count, "message")} in ${took}`);
    if (error) point(error);
  }

  /** Say at each field what the component says of it. */
  function point(error) {
    let first = null;
    for (const { field, description } of error.fieldViolations ?? []) {
      const part = asJson.checked ? null : form.find(pathOf(field));
      part?.complain(description);
      first ??= part?.control;
    }
    first?.focus();
  }

  function stop() {
    const ran = abort !== null;
    abort?.abort();
    return ran;
  }
  return { node, stop };
}

function same(one, other) {
  if (one === other) return true;
  if (typeof one !== "object" || typeof other !== "object" || !one || !other) return String(one) === String(other);
  const names = new Set([...Object.keys(one), ...Object.keys(other)]);
  return [...names].every((name) => same(one[name], other[name]));
}
