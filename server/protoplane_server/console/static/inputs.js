// Inputs for single values. Each is `{node, get, set}`: `get` gives `undefined` where nothing is
// given, and throws a RangeError with words for a person where what is given cannot be.

import { button, el } from "./dom.js";

const MAX_FILE = 8 * 1024 * 1024;

function text(props, read, write = String) {
  const node = el("input", { type: "text", autocomplete: "off", spellcheck: "false", ...props });
  return {
    node,
    get: () => (node.value.trim() === "" ? undefined : read(node.value.trim())),
    set: (value) => { node.value = value === undefined ? "" : write(value); },
  };
}

function string({ id, filled }) {
  const node = el("textarea", { id, rows: "1", class: "grows", spellcheck: "false" });
  return {
    node,
    get: () => (node.value === "" && !filled ? undefined : node.value),
    set: (value) => { node.value = value ?? ""; },
  };
}

function choice(id, options, read) {
  const node = el("select", { id }, el("option", { value: "" }, "not set"),
    options.map((each) => el("option", { value: each }, each)));
  return {
    node,
    get: () => (node.value === "" ? undefined : read(node.value)),
    set(value) {
      const asked = value === undefined ? "" : String(value);
      if (asked && !options.includes(asked)) node.append(el("option", { value: asked }, asked));
      node.value = asked;
    },
  };
}

function integer(value) {
  if (!/^[+-]?\d+$/.test(value)) throw new RangeError("a whole number is needed");
  return Number(value);
}

function long(value) {
  if (!/^-?\d+$/.test(value)) throw new RangeError("a whole number is needed");
  return value;
}

function number(value) {
  if (/^-?(Infinity|NaN)$/.test(value)) return value;
  if (Number.isNaN(Number(value))) throw new RangeError("a number is needed");
  return Number(value);
}

function duration(value) {
  if (!/^-?\d+(\.\d{1,9})?s?$/.test(value)) throw new RangeError("seconds are needed, 1.5 for example");
  return value.endsWith("s") ? value : `${value}s`;
}

function timestamp({ id }) {
  const inner = text({ id, placeholder: "2026-01-31T12:00:00Z" }, (value) => {
    if (Number.isNaN(Date.parse(value))) throw new RangeError("a time is needed, 2026-01-31T12:00:00Z for example");
    return value;
  });
  const now = button("Now", () => inner.set(new Date().toISOString()), { class: "quiet" });
  return { ...inner, node: el("div", { class: "beside" }, inner.node, now) };
}

function bytes({ id }) {
  const inner = text({ id, placeholder: "base64, or choose a file" }, (value) => {
    if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(value)) throw new RangeError("base64 is needed");
    return value;
  });
  const said = el("span", { class: "dim", role: "status" });
  const file = el("input", {
    type: "file", class: "offscreen", tabindex: "-1", "aria-label": "file",
    change: async () => {
      const [chosen] = file.files;
      if (!chosen) return;
      if (chosen.size > MAX_FILE) {
        said.textContent = `${chosen.name} has ${chosen.size} bytes; 8 MiB are the most here`;
        return;
      }
      inner.set(await base64(chosen));
      said.textContent = `${chosen.name}, ${chosen.size} bytes`;
      file.value = "";
    },
  });
  const choose = button("File…", () => file.click(), { class: "quiet" });
  return { ...inner, node: el("div", { class: "beside" }, inner.node, choose, file, said) };
}

/** The bytes of a file or blob as base64. */
export async function base64(blob) {
  const reader = new FileReader();
  return new Promise((resolve, reject) => {
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

function json({ id }) {
  const node = el("textarea", { id, rows: "3", class: "grows", spellcheck: "false", placeholder: "JSON" });
  return {
    node,
    get() {
      if (!node.value.trim()) return undefined;
      try { return JSON.parse(node.value); } catch (error) { throw new RangeError(`no JSON: ${error.message}`); }
    },
    set: (value) => { node.value = value === undefined ? "" : JSON.stringify(value, null, 2); },
  };
}

const MAKERS = {
  string,
  json,
  bytes,
  timestamp,
  boolean: ({ id }) => choice(id, ["true", "false"], (value) => value === "true"),
  enum: ({ id, shape }) => choice(id, shape.values, (value) => value),
  integer: ({ id }) => text({ id, inputmode: "numeric" }, integer),
  long: ({ id }) => text({ id, inputmode: "numeric" }, long),
  number: ({ id }) => text({ id, inputmode: "decimal" }, number),
  duration: ({ id }) => text({ id, placeholder: "seconds, 1.5 for example" }, duration),
};

/**
 * An input for a value of a shape.
 *
 * @param id The id that its label names.
 * @param filled Whether an empty text is a value: in a list, a map or a chosen oneof.
 */
export const inputOf = (shape, id, filled = false) =>
  (MAKERS[shape.kind] ?? json)({ id, shape, filled });
