// Where the API key is entered. It stays in this tab, and goes to this component only.

import { button, el } from "./dom.js";
import { apiKey, setApiKey } from "./settings.js";

/** The dialog; `open(words)` shows it, with why it is needed. */
export function keyDialog() {
  const why = el("p", {});
  const input = el("input", {
    type: "password", id: "api-key", autocomplete: "off", spellcheck: "false", autofocus: true,
  });
  const dialog = el("dialog", { "aria-labelledby": "key-title" },
    el("form", { method: "dialog", submit: () => setApiKey(input.value) },
      el("h2", { id: "key-title" }, "API key"),
      why,
      el("label", { for: "api-key" }, "Key"), input,
      el("p", { class: "dim" }, "It is sent as ", el("code", {}, "authorization: Bearer …"),
        " with every request to this component, kept until this tab is closed, and given to nobody else."),
      el("div", { class: "actions" },
        el("button", { class: "main" }, "Use it"),
        button("Forget it", () => { input.value = ""; setApiKey(""); dialog.close(); }),
        button("Cancel", () => dialog.close()))));
  return {
    node: dialog,
    open(words = "") {
      if (dialog.open) return;
      why.textContent = words;
      input.value = apiKey();
      dialog.showModal();
    },
  };
}
