// Reads the JSON Schemas of messages: which kind of field is which.

const PREFIX = "#/components/schemas/";
const PLAIN_JSON = new Set(["Any", "Struct", "Value", "ListValue", "NullValue"]);

/** The schemas of a component, by the full names of messages and enums. */
export class Schemas {
  constructor(schemas) {
    this.schemas = schemas;
  }

  /** What a field's form has to offer: an object with `kind`, and what that kind needs. */
  shape(schema) {
    const name = schema?.$ref?.startsWith(PREFIX) ? schema.$ref.slice(PREFIX.length) : "";
    const whole = name ? this.schemas[name] : schema;
    if (!whole) return { kind: "json", type: name || "any" };
    const known = wellKnown(name);
    return known ?? { ...this.#plain(whole, name), ...(name && { type: short(name) }) };
  }

  /** The shape of a message by its full name. */
  message(name) {
    return this.shape({ $ref: PREFIX + name });
  }

  #plain(schema, name) {
    const choices = schema.anyOf ?? schema.oneOf ?? [];
    const values = schema.enum ?? choices.find((each) => each.enum && each.type === "string")?.enum;
    const types = [].concat(schema.type ?? choices.map((each) => each.type)).filter(Boolean);
    if (types.includes("number")) return { kind: "number", type: "number" };
    if (values) return { kind: "enum", type: "enum", values };
    if (types.includes("integer") && types.includes("string")) {
      return { kind: "long", type: schema.format ?? "int64" };
    }
    if (types.includes("integer")) return { kind: "integer", type: schema.format ?? "int32", schema };
    if (types.includes("boolean")) return { kind: "boolean", type: "bool" };
    if (schema.contentEncoding === "base64") return { kind: "bytes", type: "bytes" };
    if (types.includes("string")) return { kind: "string", type: "string" };
    if (types.includes("array")) {
      const item = schema.items ?? {};
      return { kind: "list", item, type: `list of ${this.shape(item).type}` };
    }
    if (types.includes("object") && typeof schema.additionalProperties === "object") {
      const item = schema.additionalProperties;
      return { kind: "map", item, keys: schema.propertyNames, type: `map of ${this.shape(item).type}` };
    }
    if (schema.properties) return { kind: "message", type: "message", name, ...members(schema) };
    return { kind: "json", type: "JSON" };
  }
}

/** The fields of a message, those of a oneof together: `members` of `{name, schema}` or `{oneof}`. */
function members(schema) {
  const groups = oneofs(schema);
  const seen = new Set();
  const found = [];
  for (const [name, field] of Object.entries(schema.properties)) {
    const group = groups.find((names) => names.includes(name));
    if (!group) found.push({ name, schema: field });
    else if (!seen.has(group)) {
      seen.add(group);
      found.push({ oneof: group.map((each) => ({ name: each, schema: schema.properties[each] })) });
    }
  }
  return { doc: schema.description, members: found };
}

function oneofs(schema) {
  const found = [];
  for (const part of [schema, ...(schema.allOf ?? [])]) {
    const names = (part.oneOf ?? []).filter((each) => each.required?.length === 1)
      .map((each) => each.required[0]);
    if (names.length && names.every((name) => name in schema.properties)) found.push(names);
  }
  return found;
}

function wellKnown(name) {
  if (!name.startsWith("google.protobuf.")) return null;
  const last = short(name);
  if (last === "Timestamp") return { kind: "timestamp", type: "time" };
  if (last === "Duration") return { kind: "duration", type: "duration" };
  if (last === "FieldMask") return { kind: "string", type: "field mask, a,b.c" };
  if (last === "Empty") return { kind: "message", type: "empty", members: [] };
  return PLAIN_JSON.has(last) ? { kind: "json", type: last } : null;
}

/** The last part of a full name. */
export const short = (name) => name.split(".").pop();
