// Keys that do something anywhere on the page, and the list of them.

import { el, isTyping } from "./dom.js";
import { setShortcuts, shortcutsOn } from "./settings.js";

/**
 * Listen to keys.
 *
 * @param keys `{key, what, run}`; `run` for single letters, which can be turned off.
 * @param onEscape Called at Esc, outside of dialogs.
 * @returns The dialog that lists them.
 */
export function shortcuts(keys, onEscape) {
  const on = el("input", {
    type: "checkbox", id: "shortcuts-on", change: () => setShortcuts(on.checked),
  });
  on.checked = shortcutsOn();
  const dialog = el("dialog", { "aria-labelledby": "shortcuts-title" },
    el("form", { method: "dialog" },
      el("h2", { id: "shortcuts-title" }, "Keys"),
      el("table", {}, el("tbody", {},
        [...keys.map(({ key, what }) => [key, what]),
          ["← → Home End", "go along the tabs, when one of them has the focus"],
          ["Ctrl+Enter", "send the request"],
          ["Esc", "stop what runs, close what is open"]]
          .map(([key, what]) => el("tr", {}, el("th", { scope: "row" }, el("kbd", {}, key)), el("td", {}, what))))),
      el("label", { for: "shortcuts-on" }, on, " Single letters and digits are shortcuts"),
      el("div", { class: "actions" }, el("button", { class: "main", autofocus: true }, "Close"))));

  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") return void onEscape(event);
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || !shortcutsOn()) return;
    const found = keys.find(({ key }) => key === event.key);
    if (found) {
      event.preventDefault();
      found.run();
    }
  });
  return dialog;
}
