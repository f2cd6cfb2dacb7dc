// Makes elements. Text goes in as text only: nothing here, or anywhere else, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name === "value" || name === "checked") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined));
  return node;
}

/** An element. Functions among `props` listen to the event of their name; all else are attributes. */
export const el = (tag, props = {}, ...children) =>
  fill(document.createElement(tag), props, children);

/** The same for SVG. */
export const svg = (tag, props = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), props, children);

let last = 0;

/** An id that no other element has, for labels. */
export const freshId = () => `id-${++last}`;

/** A comment of a schema: `names` between backticks as code, and only paragraphs and lists as lines. */
export function prose(comment) {
  const text = (comment || "").replace(/(\S)\n(?=[^\s*-])/g, "$1 ");
  const parts = text.split("`");
  if (parts.length % 2 === 0) return [text];
  return parts.map((part, index) => (index % 2 ? el("code", {}, part) : part));
}

/** A long name with places where it may be broken. */
export const breakable = (text) =>
  text.split(/(?<=[./])/).flatMap((part, index) => (index ? [el("wbr"), part] : [part]));

/** Whether somebody is typing, so that a letter is no shortcut. */
export const isTyping = (target) =>
  target instanceof Element && target.closest("input, textarea, select, [contenteditable]") !== null;

/** A button. */
export const button = (label, click, props = {}) =>
  el("button", { type: "button", click, ...props }, label);

/** Put a text on the clipboard; the button says that it worked. */
export function copyButton(label, text) {
  const node = button(label, async () => {
    await copy(text());
    node.textContent = "Copied";
    setTimeout(() => { node.textContent = label; }, 1500);
  }, { class: "quiet" });
  return node;
}

async function copy(text) {
  if (navigator.clipboard) {
    try { return await navigator.clipboard.writeText(text); } catch { /* Not allowed: the old way. */ }
  }
  const area = el("textarea", { class: "offscreen", value: text, "aria-hidden": "true" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
