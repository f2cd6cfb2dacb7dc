// A form for a message, made from its schema: fields, messages in messages, lists, maps and oneofs.
// Each part is `{node, get, set, find}`: `find` gives the part at a path of names and numbers.

import { button, el, freshId, prose } from "./dom.js";
import { inputOf } from "./inputs.js";

/** The form of a whole message. */
export function messageForm(schemas, shape) {
  const parts = new Map();
  const node = el("div", { class: "fields" });
  for (const member of shape.members) {
    const part = member.oneof ? oneof(schemas, member.oneof) : field(schemas, member);
    for (const { name } of member.oneof ?? [member]) parts.set(name, part);
    node.append(part.node);
  }
  if (!parts.size) node.append(el("p", { class: "dim" }, "It has no fields."));
  const all = () => new Set(parts.values());
  return {
    node,
    get: () => Object.assign({}, ...[...all()].map((part) => part.get())),
    set: (value) => { for (const part of all()) part.set(value ?? {}); },
    find: ([name, ...rest]) => parts.get(name)?.find(name, rest) ?? null,
  };
}

/** A named field: its label, what it is for, and its value. */
function field(schemas, { name, schema }, { filled = false } = {}) {
  const shape = schemas.shape(schema);
  const inner = value(schemas, shape, { filled });
  const problem = el("p", { class: "problem", hidden: true, id: freshId() });
  const doc = schema.description && el("p", { class: "doc", id: freshId() }, prose(schema.description));
  const type = el("span", { class: "type" }, shape.type);
  const head = inner.id
    ? el("label", { for: inner.id }, el("code", {}, name), " ", type)
    : el("span", { class: "label" }, el("code", {}, name), " ", type);
  const node = el("div", { class: `field ${shape.kind}`, "data-field": name }, head, inner.node, problem, doc);
  if (!inner.id) {
    node.setAttribute("role", "group");
    node.setAttribute("aria-label", name);
  }
  const control = inner.id ? inner.node.querySelector(`#${inner.id}`) ?? inner.node : null;
  control?.setAttribute("aria-describedby", [problem.id, doc?.id].filter(Boolean).join(" "));

  function complain(words) {
    problem.textContent = words;
    problem.hidden = !words;
    if (words) control?.setAttribute("aria-invalid", "true");
    else control?.removeAttribute("aria-invalid");
  }
  node.addEventListener("input", () => complain(""));
  return {
    node,
    get() {
      let given;
      try {
        given = inner.get();
      } catch (error) {
        if (error instanceof RangeError && !error.shown) {
          complain(error.message);
          error.shown = true;
          (control ?? node).focus();
        }
        throw error;
      }
      return given === undefined ? {} : { [name]: given };
    },
    set(whole) { complain(""); inner.set(whole[name]); },
    find: (_, rest) => (rest.length && inner.find?.(rest)) || { complain, node, control },
  };
}

/** A value of any shape, without a name. */
function value(schemas, shape, { filled = false } = {}) {
  if (shape.kind === "message") return optional(schemas, shape, filled);
  if (shape.kind === "list") return list(schemas, shape);
  if (shape.kind === "map") return map(schemas, shape);
  const id = freshId();
  return { id, ...inputOf(shape, id, filled) };
}

/** A message in a message: made only when somebody wants it, for types may hold themselves. */
function optional(schemas, shape, filled) {
  let form = null;
  const node = el("div", { class: "nested" });
  const add = button("Add", () => { open(); form.node.querySelector("input, select, textarea, button")?.focus(); }, { class: "quiet" });
  const remove = button("Remove", () => { close(); add.focus(); }, { class: "quiet" });

  function open() {
    form = messageForm(schemas, shape);
    node.replaceChildren(...(filled ? [form.node] : [remove, form.node]));
  }
  function close() {
    form = null;
    node.replaceChildren(add);
  }
  if (filled) open(); else close();
  return {
    node,
    get: () => form?.get(),
    set(given) {
      if (given === undefined && !filled) return close();
      if (!form) open();
      form.set(given);
    },
    find: (path) => form?.find(path) ?? null,
  };
}

function rows(addLabel, make) {
  const items = [];
  const body = el("ol", { class: "rows" });
  const add = button(addLabel, () => { insert().node.querySelector("input, select, textarea")?.focus(); }, { class: "quiet" });

  function insert() {
    const part = make();
    const item = { ...part, row: el("li", {}) };
    const remove = button("Remove", () => {
      items.splice(items.indexOf(item), 1);
      item.row.remove();
      add.focus();
    }, { class: "quiet", "aria-label": "Remove this one" });
    item.row.append(part.node, remove);
    items.push(item);
    body.append(item.row);
    return item;
  }
  return {
    items,
    insert,
    node: el("div", { class: "many" }, body, add),
    clear() { items.length = 0; body.replaceChildren(); },
  };
}

function list(schemas, { item }) {
  const shape = schemas.shape(item);
  const all = rows("Add one", () => {
    const part = value(schemas, shape, { filled: true });
    name(part, "value");
    return part;
  });
  return {
    node: all.node,
    get() {
      const given = all.items.map((each) => each.get()).filter((each) => each !== undefined);
      return given.length ? given : undefined;
    },
    set(given) {
      all.clear();
      for (const each of given ?? []) all.insert().set(each);
    },
    find: ([index, ...rest]) => all.items[Number(index)]?.find?.(rest) ?? null,
  };
}

function map(schemas, { item }) {
  const shape = schemas.shape(item);
  const all = rows("Add one", () => {
    const key = el("input", { type: "text", "aria-label": "key", placeholder: "key", spellcheck: "false" });
    const part = value(schemas, shape, { filled: true });
    name(part, "value");
    return { ...part, key, node: el("div", { class: "pair" }, key, part.node) };
  });
  return {
    node: all.node,
    get() {
      const given = all.items.map((each) => [each.key.value, each.get()])
        .filter(([, each]) => each !== undefined);
      return given.length ? Object.fromEntries(given) : undefined;
    },
    set(given) {
      all.clear();
      for (const [key, each] of Object.entries(given ?? {})) {
        const row = all.insert();
        row.key.value = key;
        row.set(each);
      }
    },
    find: ([key, ...rest]) => all.items.find((each) => each.key.value === key)?.find?.(rest) ?? null,
  };
}

function name(part, label) {
  if (part.id) (part.node.querySelector(`#${part.id}`) ?? part.node).setAttribute("aria-label", label);
}

/** Fields of which one at most is given. */
function oneof(schemas, fields) {
  const id = freshId();
  const place = el("div");
  let part = null;
  const pick = el("select", { id, change: () => show(pick.value) },
    el("option", { value: "" }, "none of them"),
    fields.map(({ name: each }) => el("option", { value: each }, each)));

  function show(chosen) {
    const found = fields.find((each) => each.name === chosen);
    part = found ? field(schemas, found, { filled: true }) : null;
    pick.value = chosen;
    place.replaceChildren(...(part ? [part.node] : []));
  }
  return {
    node: el("fieldset", { class: "oneof" },
      el("legend", {}, "one of"),
      el("label", { for: id, class: "offscreen" }, `one of ${fields.map((each) => each.name).join(", ")}`),
      pick, place),
    get: () => part?.get() ?? {},
    set(whole) {
      const given = fields.find((each) => whole[each.name] !== undefined)?.name ?? "";
      show(given);
      part?.set(whole);
    },
    find: (name_, rest) => (pick.value === name_ ? part.find(name_, rest) : { complain() {}, node: pick, control: pick }),
  };
}

/** `a_b.c[0].d` and `aB.c.0.d` as the parts of a path in JSON. */
export const pathOf = (text) => (text.match(/[^.[\]"]+/g) ?? [])
  .map((part) => part.replace(/_+([a-z0-9])/g, (_, letter) => letter.toUpperCase()));
