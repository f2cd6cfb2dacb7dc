// The panel of instances: who is there, and who came and went.

import { breakable, el } from "./dom.js";
import { consoleOf } from "./discovery.js";
import { ago, clock, count } from "./text.js";

const GONE_MS = 5_000;

/** The panel. */
export function instancesPanel({ api, discovery }) {
  const filter = el("input", {
    type: "search", id: "instance-filter", placeholder: "Filter by name or service",
    "aria-label": "Filter instances", input: () => draw(),
  });
  const summary = el("p", { class: "summary", role: "status" });
  const groups = el("div", { class: "groups" });
  const happened = el("ol", { class: "log" });
  const node = el("div", {},
    el("div", { class: "bar" }, filter, summary),
    api.instance.watches ? null : el("p", { class: "note" },
      "This component has no engine, so it knows nobody but itself. Serve it with ",
      el("code", {}, "--engine"), " to see the others."),
    groups,
    api.instance.watches
      ? el("section", { "aria-label": "What happened" }, el("h2", {}, "Comings and goings"), happened)
      : null);
  const cards = new Map();
  const gone = new Map();
  let shown = false;
  let timer = 0;

  function matches(instance) {
    const wanted = filter.value.trim().toLowerCase();
    return !wanted || [instance.name, instance.host ?? "", ...(instance.services ?? [])]
      .some((each) => each.toLowerCase().includes(wanted));
  }

  function draw() {
    if (!shown) return;
    const { instances, self } = discovery;
    const found = [...instances.values()].filter(matches)
      .concat([...gone.values()].map((each) => each.instance).filter(matches));
    const byComponent = Map.groupBy(found, (each) => each.component || each.name);
    const names = [...byComponent.keys()].sort();
    for (const name of cards.keys()) {
      if (!instances.has(name) && !gone.has(name)) cards.delete(name);
    }
    const parts = names.map((name) => group(name, byComponent.get(name), self));
    groups.replaceChildren(...parts);
    if (!found.length) {
      groups.append(el("p", { class: "empty" },
        discovery.known ? "Nobody matches." : "Waiting for discovery …"));
    }
    summary.textContent = `${count(instances.size, "instance")} of ${
      count(new Set([...instances.values()].map((each) => each.component)).size, "component")}`;
    happened.replaceChildren(...discovery.log.map(({ kind, name, at }) => el("li", {},
      el("time", {}, clock(at)), el("span", { class: `badge ${kind}` }, kind), el("span", {}, breakable(name)))));
    if (!discovery.log.length) happened.append(el("li", { class: "dim" }, "Nothing since this page was opened."));
  }

  function group(name, members, self) {
    members.sort((one, other) => one.name.localeCompare(other.name));
    return el("section", { class: "group", "aria-label": name },
      el("h2", {}, breakable(name), el("span", { class: "dim" }, ` ${members.length}`)),
      el("div", { class: "cards" }, members.map((each) => card(each, self))));
  }

  function card(instance, self) {
    const isGone = gone.has(instance.name);
    const mine = instance.name === self.name;
    const known = cards.get(instance.name);
    const key = JSON.stringify([instance, isGone]);
    if (known?.key === key) return known.node;
    const load = instance.load ?? 0;
    const url = mine ? null : consoleOf(instance);
    const node = el("article", {
      class: `card instance${isGone ? " gone" : ""}${known ? "" : " new"}`, "data-name": instance.name,
    },
      el("h3", {}, el("span", { class: `dot ${isGone ? "bad" : "good"}` }),
        breakable(instance.name.split("/").pop()),
        mine ? el("span", { class: "badge" }, "this one") : null,
        isGone ? el("span", { class: "badge left" }, "gone") : null),
      el("dl", {},
        row("load", el("meter", { min: "0", max: "1", high: "0.8", value: load,
          "aria-label": `load ${Math.round(load * 100)} %` }), ` ${Math.round(load * 100)} %`),
        instance.startedAt ? row("up since", el("time", { datetime: instance.startedAt,
          title: instance.startedAt }, `${clock(instance.startedAt)}, ${ago(instance.startedAt)}`)) : null,
        instance.host ? row("at", `${instance.host}, process ${instance.pid ?? "?"}`) : null,
        row("serves", el("ul", { class: "plain" }, (instance.services ?? []).map((each) =>
          el("li", {}, el("code", {}, breakable(each)))))),
        metadata(instance)),
      el("details", {}, el("summary", {}, count((instance.endpoints ?? []).length, "endpoint")),
        el("ul", { class: "plain" }, (instance.endpoints ?? []).map((each) =>
          el("li", {}, el("code", {}, breakable(each)))))),
      url && !isGone ? el("a", { href: url, target: "_blank", rel: "noopener" }, "Open its console") : null);
    cards.set(instance.name, { key, node });
    return node;
  }

  const metadata = ({ metadata: said }) => (said && Object.keys(said).length
    ? row("says", el("ul", { class: "plain" }, Object.entries(said).map(([name, value]) =>
      el("li", {}, el("code", {}, name), " ", value.length > 120 ? `${value.slice(0, 120)}…` : value))))
    : null);

  const row = (name, ...value) => [el("dt", {}, name), el("dd", {}, value)];

  let before = new Map();
  discovery.addEventListener("change", () => {
    for (const [name, instance] of before) {
      // Who goes stays on the page for a moment, so that it is seen to go.
      if (!discovery.instances.has(name)) {
        gone.set(name, { instance });
        setTimeout(() => { gone.delete(name); draw(); }, GONE_MS);
      }
    }
    for (const name of discovery.instances.keys()) gone.delete(name);
    before = new Map(discovery.instances);
    draw();
  });

  return {
    name: "instances",
    label: "Instances",
    node,
    filter,
    show() {
      shown = true;
      draw();
      clearInterval(timer);
      timer = setInterval(() => { cards.clear(); draw(); }, 30_000);
    },
    hide() { shown = false; clearInterval(timer); },
  };
}
