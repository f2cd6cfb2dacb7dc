// Tabs after https://www.w3.org/WAI/ARIA/apg/patterns/tabs/: one stop of the Tab key, arrows between.

import { el } from "./dom.js";
import { icon } from "./icons.js";

/**
 * The tabs of some panels; each panel has `name`, `label`, `node`, `show(route)` and `hide()`.
 *
 * @returns `{list, panels, open}`; `open(name, route)` shows one.
 */
export function tabs(all, onOpen) {
  const byName = new Map();
  const list = el("div", { class: "tabs", role: "tablist", "aria-label": "What to look at", keydown: move });
  const panels = el("div", { class: "panels" });
  let current = null;
  for (const panel of all) {
    const tab = el("button", {
      type: "button", role: "tab", id: `tab-${panel.name}`, "aria-controls": `panel-${panel.name}`,
      "aria-selected": "false", tabindex: "-1", click: () => onOpen(panel.name),
    }, icon(panel.name), el("span", {}, panel.label));
    const place = el("div", {
      role: "tabpanel", id: `panel-${panel.name}`, "aria-labelledby": tab.id, class: `panel-${panel.name}`, hidden: true,
    }, panel.node);
    byName.set(panel.name, { panel, tab, place });
    list.append(tab);
    panels.append(place);
  }

  function move(event) {
    const nodes = [...list.children];
    const at = nodes.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: nodes.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const next = nodes[(to + nodes.length) % nodes.length];
    next.focus();
    next.click();
  }

  function open(name, route = "") {
    const next = byName.get(name) ?? byName.get(all[0].name);
    if (current && current !== next) {
      current.panel.hide();
      current.tab.setAttribute("aria-selected", "false");
      current.tab.tabIndex = -1;
      current.place.hidden = true;
    }
    current = next;
    next.tab.setAttribute("aria-selected", "true");
    next.tab.tabIndex = 0;
    next.place.hidden = false;
    next.panel.show(route);
  }
  return { list, panels, open, current: () => current?.panel };
}
