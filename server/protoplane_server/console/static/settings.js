// What the page remembers: the API key for as long as the tab is open, and tastes for longer.

const KEY = "protoplane.key";

function read(storage, name) {
  try { return window[storage].getItem(name) ?? ""; } catch { return ""; }
}

function write(storage, name, value) {
  try {
    if (value) window[storage].setItem(name, value);
    else window[storage].removeItem(name);
  } catch { /* No storage: it lasts until the page is left. */ }
}

let key = read("sessionStorage", KEY);
const keyListeners = new Set();

/** The API key; empty for none. */
export const apiKey = () => key;

/** Use another API key from now on. */
export function setApiKey(value) {
  key = value.trim();
  write("sessionStorage", KEY, key);
  for (const listener of keyListeners) listener();
}

/** Have something called whenever there is another key; gives what ends that. */
export function onApiKey(listener) {
  keyListeners.add(listener);
  return () => keyListeners.delete(listener);
}

/** `light`, `dark`, or `auto` for what the system says. */
export const theme = () => document.documentElement.dataset.theme ?? "auto";

/** Choose it. */
export function setTheme(value) {
  if (value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = value;
  write("localStorage", "protoplane.theme", value === "auto" ? "" : value);
}

/** Whether letters are shortcuts. */
export const shortcutsOn = () => read("localStorage", "protoplane.shortcuts") !== "off";

/** Say so. */
export const setShortcuts = (on) => write("localStorage", "protoplane.shortcuts", on ? "" : "off");
