// JSON to be read: indented and coloured, long texts cut.

import { el } from "./dom.js";

const MAX_STRING = 600;
const MAX_LINE = 160;
const MAX_NODES = 3000;
const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** A value as a block of coloured JSON; on one line where it fits and that is wanted. */
export function jsonView(value, { compact = false } = {}) {
  const short = cut(value);
  const line = compact ? JSON.stringify(short) ?? "" : "";
  const text = line && line.length <= MAX_LINE ? line : indented(short);
  const node = el("pre", { class: "json", tabindex: "0" });
  let at = 0;
  let count = 0;
  for (const match of text.matchAll(TOKEN)) {
    if (++count > MAX_NODES) break;
    node.append(text.slice(at, match.index));
    const [whole, quoted, colon] = match;
    const kind = colon ? "name" : quoted ? "string" : /[a-z]/.test(whole[0]) ? "word" : "number";
    node.append(el("span", { class: kind }, quoted ?? whole), colon ?? "");
    at = match.index + whole.length;
  }
  node.append(text.slice(at));
  return node;
}

function cut(value) {
  if (typeof value === "string" && value.length > MAX_STRING) {
    return `${value.slice(0, MAX_STRING)}… ${value.length - MAX_STRING} more characters`;
  }
  if (Array.isArray(value)) return value.map(cut);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, cut(each)]));
  }
  return value;
}

/** Indented, but for short lists of numbers and texts, which stay on a line. */
const indented = (value) => (JSON.stringify(value, null, 2) ?? "").replace(
  /\[\n\s+([^[\]{}]*?)\n\s+\]/g,
  (whole, items) => (items.length <= MAX_LINE ? `[${items.replace(/,\n\s+/g, ", ")}]` : whole),
);

/** A value on one line, shortened. */
export function oneLine(value, most = 200) {
  const text = typeof value === "string" ? value : JSON.stringify(cut(value)) ?? "";
  return text.length > most ? `${text.slice(0, most)}…` : text;
}
