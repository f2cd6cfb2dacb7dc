// Server-sent events over fetch, which can send the API key as EventSource cannot.
// Source: https://html.spec.whatwg.org/multipage/server-sent-events.html

/** The events of a body: `{type, data, id, retry}`. Bare ids and hints come as events without data. */
export async function* readEvents(body, heard = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      text += value;
      // A carriage return at the end may be half of a line's end.
      const whole = text.endsWith("\r") ? text.length - 1 : text.length;
      const lines = text.slice(0, whole).replace(/\r\n?/g, "\n");
      const end = lines.lastIndexOf("\n\n");
      if (end < 0) continue;
      const rest = lines.slice(end + 2) + text.slice(whole);
      for (const block of lines.slice(0, end).split("\n\n")) {
        const event = parse(block);
        if (event) yield event;
      }
      text = rest;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const event = { type: "message", data: undefined, id: undefined, retry: undefined };
  const data = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon === 0 || !line) continue;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") data.push(value);
    else if (name === "event") event.type = value;
    else if (name === "id") event.id = value;
    else if (name === "retry") event.retry = Number(value);
  }
  if (data.length) event.data = data.join("\n");
  return data.length || event.id !== undefined || event.retry ? event : null;
}
