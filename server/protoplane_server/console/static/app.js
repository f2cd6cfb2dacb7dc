// The page: asks what the component is, and puts the panels together.

import { getJson } from "./calls.js";
import { chatPanel } from "./chat.js";
import { Discovery } from "./discovery.js";
import { breakable, button, el } from "./dom.js";
import { eventsPanel } from "./events.js";
import { icon } from "./icons.js";
import { instancesPanel } from "./instances.js";
import { jobsPanel } from "./jobs.js";
import { keyDialog } from "./key_dialog.js";
import { methodsPanel } from "./methods.js";
import { metricsPanel } from "./metrics.js";
import { failure } from "./replies.js";
import { Schemas } from "./schema.js";
import { apiKey, onApiKey, setTheme, theme } from "./settings.js";
import { shortcuts } from "./shortcuts.js";
import { tabs } from "./tabs.js";

const STATES = {
  connecting: ["connecting", ""], live: ["connected", "good"], waiting: ["reconnecting", "bad"],
  away: ["paused", ""], refused: ["API key needed", "bad"], failed: ["refused", "bad"],
};

async function start() {
  const api = await load();
  const said = el("p", { class: "offscreen", role: "status", "aria-live": "polite" });
  const app = {
    api,
    schemas: new Schemas(api.schemas),
    serves: (service) => api.services.some((each) => each.name === service),
    announce: (words) => { said.textContent = words; },
    discovery: new Discovery(api.instance, api.services),
  };
  const { discovery } = app;
  const all = [instancesPanel, methodsPanel, eventsPanel, jobsPanel, chatPanel, metricsPanel].map((make) => make(app));
  const go = (name) => { location.hash = name; };
  const tabbed = tabs(all, go);
  const key = keyDialog();
  const help = shortcuts([
    ...all.map(({ name, label }, index) => ({ key: String(index + 1), what: `show ${label.toLowerCase()}`, run: () => go(name) })),
    { key: "/", what: "go to the filter, or to what is typed here", run: () => tabbed.current()?.filter?.focus() },
    { key: "p", what: "pause events, and let them go on", run: () => tabbed.current()?.pause?.() },
    { key: "k", what: "enter the API key", run: () => key.open() },
    { key: "t", what: "change between light and dark", run: () => turn() },
    { key: "?", what: "show this list", run: () => help.showModal() },
  ], ({ target }) => {
    if (!tabbed.current()?.stop?.()) target.blur?.();
  });

  const anew = el("p", { class: "note anew", role: "status", hidden: true },
    "This component was started anew, and serves something else than this page shows. ",
    button("Reload the page", () => location.reload(), { class: "quiet" }));
  let lost = false;
  async function compare() {
    try {
      anew.hidden = JSON.stringify(await getJson("/console/api.json")) === JSON.stringify(api);
    } catch {
      lost = true;
    }
  }
  const dot = el("span", { class: "dot" });
  const state = el("span", {});
  const who = el("span", { class: "dim" });
  discovery.addEventListener("state", () => {
    const [words, kind] = STATES[discovery.state];
    state.textContent = words;
    dot.className = `dot ${kind}`;
    who.textContent = discovery.error && discovery.state !== "refused" ? discovery.error.message : "";
    if (discovery.state === "waiting") lost = true;
    if (discovery.state === "live" && lost) {
      lost = false;
      compare();
    }
    if (discovery.state === "refused") key.open("This component wants to know who calls.");
  });
  const themeButton = button([icon("theme"), el("span", { class: "offscreen" }, "Colours: as the system")], () => turn(), { class: "icon-button", title: "Colours (t)" });
  const keyButton = button([icon("key"), el("span", { class: "offscreen" }, "API key")], () => key.open(), { class: "icon-button", title: "API key (k)" });
  const helpButton = button([icon("help"), el("span", { class: "offscreen" }, "Keys")], () => help.showModal(), { class: "icon-button", title: "Keys (?)" });

  function turn() {
    const dark = theme() === "dark" || (theme() === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
    setTheme(dark ? "light" : "dark");
    themed();
  }
  function themed() {
    themeButton.querySelector(".offscreen").textContent = { auto: "Colours: as the system", light: "Colours: light", dark: "Colours: dark" }[theme()];
  }
  const keyed = () => keyButton.classList.toggle("set", apiKey() !== "");
  themed();
  keyed();
  onApiKey(keyed);

  document.title = `${api.instance.name} · Protoplane`;
  document.getElementById("app").replaceChildren(
    el("header", {},
      el("div", { class: "who" },
        el("h1", {}, breakable(api.instance.name)),
        el("p", { class: "connection", id: "connection", role: "status" }, dot, state, " ", who)),
      el("p", { class: "version dim" }, `Protoplane ${api.instance.version}, namespace ${api.instance.namespace}`),
      el("div", { class: "tools" }, keyButton, themeButton, helpButton)),
    tabbed.list,
    el("main", { id: "main", tabindex: "-1" }, anew, tabbed.panels),
    said, help, key.node);

  const route = () => {
    const [name, ...rest] = decodeURIComponent(location.hash.slice(1)).split("/");
    // What is no panel is a place on the page, as "Skip to the content" goes to.
    if (tabbed.current() && !all.some((each) => each.name === name)) return;
    tabbed.open(name, rest.join("/"));
  };
  window.addEventListener("hashchange", route);
  route();
  discovery.dispatchEvent(new Event("state"));
}

/** What the component is; asked again until it answers. */
async function load() {
  for (let pauseMs = 500; ; pauseMs = Math.min(2 * pauseMs, 10_000)) {
    try {
      return await getJson("/console/api.json");
    } catch (error) {
      document.getElementById("app").replaceChildren(failure(error));
      await new Promise((resolve) => { setTimeout(resolve, pauseMs); });
    }
  }
}

start();
