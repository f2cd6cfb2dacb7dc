// What a call answers: its messages as they come, how it ended, and why it failed.

import { copyButton, el } from "./dom.js";
import { jsonView } from "./json_view.js";
import { count } from "./text.js";

const MAX_SHOWN = 500;
const MAX_KEPT_CHARS = 4_000_000;

/** The answers to one call after another, in one place. */
export class Replies {
  constructor() {
    this.status = el("p", { class: "status" });
    this.list = el("ol", { class: "replies" });
    this.copy = copyButton("Copy", () => this.kept.map((each) => JSON.stringify(each.message)).join("\n"));
    this.node = el("section", { class: "answer", hidden: true, "aria-label": "Answer" },
      el("div", { class: "bar" }, el("h3", {}, "Answer"), this.status, this.copy), this.list);
    this.kept = [];
    this.chars = 0;
    this.count = 0;
    this.waiting = [];
    this.frame = 0;
  }

  /** Another call begins. Messages of streams are `compact`: on a line where they are short. */
  begin(compact) {
    this.compact = compact;
    this.kept = [];
    this.waiting = [];
    this.chars = 0;
    this.count = 0;
    this.list.replaceChildren();
    this.node.hidden = false;
    this.status.replaceChildren(el("span", { class: "badge" }, "running"));
    this.copy.hidden = true;
    this.node.scrollIntoView({ block: "nearest" });
  }

  add(message) {
    this.count++;
    const chars = JSON.stringify(message).length;
    this.chars += chars;
    this.waiting.push({ message, chars, number: this.count });
    // As many as come, the page is drawn once a frame.
    if (!this.frame) this.frame = requestAnimationFrame(() => this.#draw());
  }

  end(code, took, error) {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.#draw();
    const good = code === "ok";
    const messages = this.count === 1 && good ? "" : `${count(this.count, "message")}, `;
    this.status.replaceChildren(
      el("span", { class: `badge ${good ? "joined" : "left"}` }, code), ` ${messages}${took}`);
    this.copy.hidden = !this.count;
    if (error) this.list.append(el("li", {}, failure(error)));
  }

  #draw() {
    this.frame = 0;
    const fresh = this.waiting.splice(0);
    for (const { chars } of fresh.splice(0, Math.max(0, fresh.length - MAX_SHOWN))) this.chars -= chars;
    const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
    this.kept.push(...fresh);
    this.list.append(...fresh.map(({ message, number }) =>
      el("li", { "data-number": number }, jsonView(message, { compact: this.compact }))));
    while (this.kept.length > MAX_SHOWN || (this.kept.length > 1 && this.chars > MAX_KEPT_CHARS)) {
      this.chars -= this.kept.shift().chars;
      this.list.firstChild?.remove();
    }
    const cut = this.count - this.kept.length;
    if (cut > 0) {
      this.status.replaceChildren(el("span", { class: "badge" }, "running"),
        ` ${this.count} messages; the last ${this.kept.length} are shown`);
    }
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
  }
}

/** An error, with what it says of fields and further details. */
export function failure(error) {
  const violations = error.fieldViolations ?? [];
  const rest = (error.details ?? []).filter((each) => !each.debug?.fieldViolations);
  return el("div", { class: "failure", role: "alert" },
    el("p", {}, el("strong", {}, error.code ?? "failed"), error.status ? ` (HTTP ${error.status})` : "",
      ": ", error.message),
    violations.length ? el("ul", {}, violations.map(({ field, description }) =>
      el("li", {}, el("code", {}, field), " ", description))) : null,
    rest.map((each) => el("details", {}, el("summary", {}, each.type), jsonView(each.debug ?? each.value))));
}
