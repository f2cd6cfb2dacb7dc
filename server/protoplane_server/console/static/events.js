// The panel of events: what is published under the keys of an expression, as it comes.

import { breakable, button, copyButton, el } from "./dom.js";
import { follow } from "./follow.js";
import { jsonView, oneLine } from "./json_view.js";
import { short } from "./schema.js";
import { clock, count } from "./text.js";

const MAX_EVENTS = 500;
const MAX_WAITING = 2000;
const MAX_CHARS = 64_000;

const STATES = {
  connecting: "connecting …", live: "live", waiting: "reconnecting …", away: "away",
  refused: "an API key is needed", failed: "refused", paused: "paused",
};

/** The panel. */
export function eventsPanel({ api, announce }) {
  const keys = new Set(["**"]);
  for (const { events } of api.services) {
    for (const { key } of events) keys.add(key.replace(/\{[^}]*\}/g, "*"));
  }
  if (api.instance.stats) keys.add(`${api.instance.stats}/**`);
  const expression = el("input", {
    type: "text", id: "event-keys", list: "event-known", value: "**", spellcheck: "false",
    autocomplete: "off", "aria-describedby": "event-hint",
  });
  const begin = el("select", { id: "event-begin" },
    el("option", { value: "now" }, "now"),
    el("option", { value: "5" }, "5 minutes ago"),
    el("option", { value: "60" }, "an hour ago"),
    el("option", { value: "earliest" }, "the oldest kept"));
  const filter = el("input", {
    type: "search", id: "event-filter", placeholder: "Filter what came", "aria-label": "Filter events",
    input: () => redraw(),
  });
  const pause = button("Pause", () => setPaused(stream !== null), { id: "event-pause", "aria-pressed": "false" });
  const state = el("span", { class: "badge", role: "status" });
  const numbers = el("span", { class: "dim" });
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const list = el("ol", { class: "events", "aria-label": "Events, the newest first" });
  const node = el("div", {},
    el("form", {
      class: "bar wrap", submit: (event) => { event.preventDefault(); restart(); },
    },
      el("label", { for: "event-keys" }, "Keys ", expression),
      el("datalist", { id: "event-known" }, [...keys].map((value) => el("option", { value }))),
      el("label", { for: "event-begin" }, "from ", begin),
      el("button", { type: "submit", class: "main" }, "Follow")),
    el("p", { id: "event-hint", class: "dim" },
      el("code", {}, "*"), " stands for one segment of a key, ", el("code", {}, "**"), " for any number of them; neither for one that begins with ", el("code", {}, "@"), "."),
    problem,
    el("div", { class: "bar wrap" },
      state, numbers, filter,
      pause, button("Clear", () => { events.length = 0; chars = 0; redraw(); }, { class: "quiet" })),
    list);

  const events = [];
  const waiting = [];
  let chars = 0;
  let stream = null;
  let lastId = "";
  let shown = false;
  let paused = false;
  let followed = null;
  let total = 0;
  let dropped = 0;
  let frame = 0;

  function restart() {
    stream?.close();
    stream = null;
    events.length = waiting.length = chars = total = dropped = 0;
    lastId = "";
    paused = false;
    pause.setAttribute("aria-pressed", "false");
    followed = { keys: expression.value.trim() || "**", begin: begin.value, at: Date.now() };
    redraw();
    connect();
  }

  function connect() {
    problem.hidden = true;
    const { keys: asked, begin: from, at } = followed;
    const place = /^\d+$/.test(from) ? String((at - Number(from) * 60_000) / 1000) : from;
    const path = asked.split("/").map(encodeURIComponent).join("/").replaceAll("%2A", "*");
    stream = follow(
      () => `/events/${path}?envelope=cloudevents${lastId ? "" : `&after=${place}`}`,
      { onEvent: take, onState: become, after: lastId },
    );
    pause.textContent = "Pause";
  }

  /** Let go of the connection, and know where to go on: nothing durable is missed meanwhile. */
  function hold() {
    lastId = stream?.lastId || lastId;
    stream?.close();
    stream = null;
  }

  function setPaused(value) {
    paused = value;
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) {
      hold();
      pause.textContent = "Resume";
      become("paused");
    } else connect();
    announce(paused ? "Events are paused" : "Events go on");
  }

  function become(name, error) {
    state.textContent = STATES[name] ?? name;
    state.className = `badge ${name === "live" ? "joined" : name === "waiting" || name === "failed" ? "left" : ""}`;
    problem.hidden = !error || name === "waiting";
    problem.textContent = error?.message ?? "";
  }

  function take(event) {
    total++;
    const cut = event.data.length > MAX_CHARS;
    waiting.push({ text: event.data, gap: event.type === "gap", cut, at: Date.now() });
    if (waiting.length > MAX_WAITING) { waiting.shift(); dropped++; }
    if (!frame) frame = requestAnimationFrame(draw);
  }

  const wanted = (each) => {
    const words = filter.value.trim().toLowerCase();
    if (!words) return true;
    each.sought ??= `${each.key} ${short(each.type)} ${JSON.stringify(each.data)}`.toLowerCase();
    return each.sought.includes(words);
  };

  function draw() {
    frame = 0;
    const fresh = waiting.splice(0).map(read);
    for (const each of fresh) {
      events.unshift(each);
      chars += each.size;
      if (wanted(each)) list.prepend((each.node = row(each)));
    }
    while (events.length > MAX_EVENTS || (events.length > 1 && chars > 4_000_000)) {
      const old = events.pop();
      chars -= old.size;
      old.node?.remove();
    }
    tell();
  }

  function redraw() {
    list.replaceChildren(...events.filter(wanted).map((each) => (each.node ??= row(each))));
    tell();
  }

  function tell() {
    const left = dropped ? `, ${dropped} came too fast to be shown` : "";
    numbers.textContent = `${count(total, "event")} came, ${list.children.length} shown${left}`;
    list.classList.toggle("none", !list.children.length);
  }

  function read({ text, gap, cut, at }) {
    const kept = cut ? text.slice(0, MAX_CHARS) : text;
    let whole = null;
    try { whole = JSON.parse(text); } catch { /* It is shown as it came. */ }
    if (gap) return { key: "", type: "gap", at, size: kept.length, data: whole?.data ?? kept, gap };
    return {
      key: whole?.subject ?? "", type: whole?.type ?? "", id: whole?.id, at: whole?.time ?? at, size: kept.length,
      data: cut ? `${kept} … cut` : whole?.data ?? kept,
    };
  }

  function row({ key, type, id, at, data, gap }) {
    const inside = el("div", { class: "inside" });
    return el("li", {}, el("details", {
      class: gap ? "gap" : "",
      toggle: ({ target }) => {
        if (target.open && !inside.firstChild) {
          inside.append(
            el("p", { class: "dim" }, type, id ? ` · ${id}` : "", " ",
              copyButton("Copy", () => JSON.stringify(data, null, 2))),
            jsonView(data));
        }
      },
    },
      el("summary", {},
        el("time", {}, clock(at, { millis: true })),
        el("code", { class: "key" }, gap ? "events are missing here" : breakable(key)),
        el("span", { class: "badge", title: type }, short(type)),
        el("span", { class: "peek" }, oneLine(data))),
      inside));
  }

  return {
    name: "events",
    label: "Events",
    node,
    filter,
    show(route) {
      shown = true;
      if (route) {
        expression.value = route;
        if (followed?.keys !== route) return restart();
      }
      if (!followed) restart();
      else if (!stream && !paused) connect();
    },
    // A browser has six connections: this one goes, and comes back at the same event.
    hide() {
      if (shown && stream) hold();
      shown = false;
    },
    pause: () => pause.click(),
  };
}
