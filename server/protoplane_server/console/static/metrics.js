// The panel of metrics: rates and latencies of one instance, or of all whose events come here.

import { getJson } from "./calls.js";
import { chart } from "./charts.js";
import { breakable, el } from "./dom.js";
import { follow } from "./follow.js";
import { quantile, Series } from "./series.js";
import { bytes, round, seconds } from "./text.js";

const POLL_MS = 2000;
const STEP_MS = 2000;
const SPAN_MS = 5 * 60_000;

/** The panel. */
export function metricsPanel({ api }) {
  const series = new Series();
  const which = el("select", { id: "metrics-of", change: () => draw() });
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const charts = [
    chart({ title: "Calls per second", format: round, lines: [{ name: "calls", read: (each) => each.rate }, { name: "errors", read: (each) => each.errorRate }] }),
    chart({ title: "Latency", format: seconds, least: 0.001, lines: [
      { name: "p50", read: (each) => each.p50 }, { name: "p90", read: (each) => each.p90 }, { name: "p99", read: (each) => each.p99 }] }),
    chart({ title: "Open and queued", format: round, lines: [
      { name: "open", read: (each) => each.inFlight }, { name: "queued", read: (each) => each.queued }] }),
    chart({ title: "Load", format: (value) => `${Math.round(value * 100)} %`, lines: [{ name: "the busiest", read: (each) => each.load }] }),
    chart({ title: "Memory", format: bytes, least: 1e6, lines: [{ name: "resident", read: (each) => each.residentBytes }] }),
  ];
  const methods = el("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": "Methods of the last minute" });
  const node = el("div", {},
    el("div", { class: "bar wrap" },
      el("label", { for: "metrics-of" }, "Instance ", which),
      el("span", { class: "dim" }, "The last five minutes. ",
        el("a", { href: "metrics" }, "/metrics"), " has all of it for Prometheus.")),
    api.instance.stats ? null : el("p", { class: "note" },
      "This component publishes no numbers of its own, so only its own are here, while this is open."),
    problem,
    el("div", { class: "charts" }, charts.map((each) => each.node)),
    el("section", {}, el("h2", {}, "Methods, in the last minute"), methods));
  let stream = null;
  let lastId = "";
  let timer = 0;
  let shown = false;
  let polling = false;

  function choose() {
    const names = [...series.instances.keys()].sort();
    const known = [...which.options].map((each) => each.value);
    if (names.join() === known.slice(1).join()) return;
    const chosen = which.value;
    which.replaceChildren(el("option", { value: "" }, "all of them"),
      ...names.map((name) => el("option", { value: name }, name === api.instance.name ? `${name} (this one)` : name)));
    which.value = names.includes(chosen) ? chosen : "";
  }

  async function poll() {
    if (polling) return;
    polling = true;
    try {
      const { stats } = await getJson("/protoplane/v1/stats", { signal: AbortSignal.timeout(10_000) });
      series.take(stats);
      problem.hidden = true;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
    polling = false;
    if (shown) draw();
  }

  const here = new Set(api.services.flatMap(({ methods: all }) => all.map(({ path }) => path)));
  const named = (path) => (here.has(path)
    ? el("a", { href: `#methods${path}` }, breakable(path.slice(1)))
    : breakable(path.slice(1)));

  function draw() {
    choose();
    const now = Date.now();
    const points = series.points(which.value, { stepMs: STEP_MS, spanMs: SPAN_MS, now });
    for (const each of charts) each.draw(points);
    const found = series.methods(which.value, now);
    methods.replaceChildren(found.length
      ? el("table", {},
        el("thead", {}, el("tr", {}, ["method", "calls", "errors", "p50", "p99"].map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, found.map((each) => el("tr", {},
          el("th", { scope: "row" }, named(each.method)),
          el("td", {}, String(each.calls)), el("td", {}, String(each.errors)),
          [0.5, 0.99].map((share) => el("td", {}, seconds(quantile(each.buckets, each.bounds, share) ?? NaN)))))))
      : el("p", { class: "empty" }, "No calls."));
  }

  return {
    name: "metrics",
    label: "Metrics",
    node,
    filter: which,
    show() {
      shown = true;
      if (api.instance.stats && !stream) {
        const since = String((Date.now() - SPAN_MS) / 1000);
        stream = follow(() => `/events/${api.instance.stats}/**${lastId ? "" : `?after=${since}`}`, {
          after: lastId,
          onEvent: (event) => { if (event.type.endsWith(".InstanceStats")) series.take(JSON.parse(event.data)); },
        });
      }
      clearInterval(timer);
      timer = setInterval(() => { if (!document.hidden) poll(); }, POLL_MS);
      draw();
      poll();
    },
    hide() {
      shown = false;
      clearInterval(timer);
      lastId = stream?.lastId ?? lastId;
      stream?.close();
      stream = null;
    },
  };
}
