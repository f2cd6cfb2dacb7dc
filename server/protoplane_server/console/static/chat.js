// The panel of chat: tokens as they arrive.

import { wasStopped } from "./calls.js";
import { chatSource, GATEWAY, INFERENCE } from "./chat_sources.js";
import { elsewhere } from "./discovery.js";
import { button, el } from "./dom.js";
import { failure } from "./replies.js";
import { onApiKey } from "./settings.js";
import { round, seconds } from "./text.js";

const MAX_TURNS = 100;
const MAX_CHARS = 200_000;

/** The panel. */
export function chatPanel(app) {
  const { announce, discovery } = app;
  const source = chatSource(app);
  const note = el("p", { class: "note", hidden: source !== null });
  const model = el("select", { id: "chat-model" });
  const temperature = el("input", { type: "number", id: "chat-temperature", min: "0", max: "2", step: "0.1", class: "short", placeholder: "1" });
  const limit = el("input", { type: "number", id: "chat-limit", min: "1", class: "short", value: "256" });
  const system = el("textarea", { id: "chat-system", rows: "1", class: "grows" });
  const transcript = el("div", { class: "transcript", role: "log", "aria-live": "off", "aria-label": "Conversation", tabindex: "0" });
  const words = el("textarea", {
    id: "chat-words", rows: "2", class: "grows", placeholder: "Say something", "aria-label": "Your message",
    keydown: (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); say(); }
    },
  });
  const send = el("button", { type: "submit", class: "main" }, "Send");
  const stopping = button("Stop", () => stop(), { hidden: true });
  const body = el("div", { class: "chat", hidden: source === null },
    el("div", { class: "bar wrap" },
      el("label", { for: "chat-model" }, "Model ", model),
      el("label", { for: "chat-temperature" }, "temperature ", temperature),
      el("label", { for: "chat-limit" }, "most tokens ", limit),
      button("New conversation", () => clear(), { class: "quiet" })),
    el("details", {}, el("summary", {}, "Instructions"),
      el("label", { for: "chat-system", class: "offscreen" }, "Instructions"), system),
    transcript,
    el("form", { class: "say", submit: (event) => { event.preventDefault(); say(); } },
      words, el("div", { class: "actions" }, send, stopping,
        el("span", { class: "dim" }, "Enter sends, Shift+Enter makes a new line."))));
  const node = el("div", {}, note, body);
  const turns = [];
  let abort = null;
  let known = false;
  let shown = false;

  function clear() {
    stop();
    turns.length = 0;
    showNothing();
    words.focus();
  }

  function showNothing() {
    transcript.replaceChildren(el("p", { class: "empty" }, `Answers come from ${source?.name ?? "nobody"}.`));
  }

  async function load() {
    if (!source || known) return;
    try {
      const names = await source.models();
      model.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
      known = true;
      if (!turns.length) showNothing();
      if (!names.length) transcript.replaceChildren(el("p", { class: "empty" }, "No model here writes text."));
    } catch (error) {
      transcript.replaceChildren(failure(error));
    }
  }

  function bubble(role, text) {
    const content = el("div", { class: "content" }, text);
    const foot = el("p", { class: "foot dim" });
    const item = el("article", { class: `turn ${role}`, "aria-label": role === "user" ? "You" : "Model" },
      el("h3", {}, role === "user" ? "You" : model.value || "Model"), content, foot);
    if (!turns.length) transcript.replaceChildren();
    transcript.append(item);
    while (transcript.children.length > 2 * MAX_TURNS) transcript.firstChild.remove();
    transcript.scrollTop = transcript.scrollHeight;
    return { content, foot, item };
  }

  // Who reads the end goes on to do so.
  function grow(change) {
    const atEnd = transcript.scrollHeight - transcript.scrollTop - transcript.clientHeight < 60;
    change();
    if (atEnd) transcript.scrollTop = transcript.scrollHeight;
  }

  async function say() {
    const text = words.value.trim();
    if (!text || abort || !source) return;
    const mine = (abort = new AbortController());
    bubble("user", text);
    turns.push({ role: "user", content: text });
    words.value = "";
    const answer = bubble("assistant", "");
    answer.item.setAttribute("aria-busy", "true");
    send.disabled = true;
    stopping.hidden = false;
    const began = performance.now();
    let first = 0;
    let said = "";
    let fresh = "";
    let usage = null;
    let reason = "";
    let frame = 0;
    const flush = () => {
      frame = 0;
      grow(() => answer.content.append(fresh));
      fresh = "";
    };
    try {
      const messages = [
        ...(system.value.trim() ? [{ role: "system", content: system.value.trim() }] : []),
        ...turns.slice(-MAX_TURNS),
      ];
      const settings = {
        model: model.value,
        temperature: temperature.value === "" ? undefined : Number(temperature.value),
        maxTokens: Number(limit.value) || undefined,
      };
      for await (const piece of source.say(messages, settings, mine.signal)) {
        if (piece.text) {
          first ||= performance.now();
          if (said.length < MAX_CHARS) { said += piece.text; fresh += piece.text; }
          frame ||= requestAnimationFrame(flush);
        }
        usage = piece.usage ?? usage;
        reason = piece.reason ?? reason;
      }
    } catch (error) {
      if (wasStopped(error)) reason = "stopped";
      else {
        reason = error.code;
        grow(() => answer.item.append(failure(error)));
      }
    }
    if (frame) cancelAnimationFrame(frame);
    flush();
    turns.push({ role: "assistant", content: said });
    turns.splice(0, turns.length - 2 * MAX_TURNS);
    grow(() => { answer.foot.textContent = summary({ began, first, usage, reason }); });
    answer.item.removeAttribute("aria-busy");
    if (abort === mine) abort = null;
    send.disabled = false;
    stopping.hidden = true;
    announce(said ? `The model said: ${said.slice(0, 500)}` : `No answer: ${reason}`);
  }

  function summary({ began, first, usage, reason }) {
    const ended = performance.now();
    const rate = usage && first ? (usage.completion / Math.max(0.001, (ended - first) / 1000)) : 0;
    return [
      reason && `ended: ${reason}`,
      usage && `${usage.prompt} tokens read, ${usage.completion} written`,
      first ? `first after ${seconds((first - began) / 1000)}` : "",
      rate ? `${round(rate)} tokens/s` : "",
    ].filter(Boolean).join(" · ");
  }

  function stop() {
    const ran = abort !== null;
    abort?.abort();
    return ran;
  }

  function tell() {
    if (source) return;
    const there = [...elsewhere(discovery, GATEWAY), ...elsewhere(discovery, INFERENCE)];
    note.replaceChildren("This component has no model to talk to. ", ...(there.length
      ? ["There are some at ", ...there.flatMap((each, index) => [index ? ", " : "",
        el("a", { href: `${each.console}#chat`, target: "_blank", rel: "noopener" }, each.name)]), "."]
      : ["Nobody here serves ", el("code", {}, INFERENCE), "."]));
  }

  showNothing();
  discovery.addEventListener("change", tell);
  onApiKey(() => { known = false; if (shown) load(); });
  return {
    name: "chat",
    label: "Chat",
    node,
    filter: words,
    show() { shown = true; tell(); load(); },
    hide() { shown = false; },
    stop,
  };
}
