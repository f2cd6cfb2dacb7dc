// A subscriber with the npm package eventsource: each event it is given becomes a line of JSON.
//
//   node events.mjs URL TYPE…
import { EventSource } from "eventsource";

const [url, ...types] = process.argv.slice(2);
const tell = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const source = new EventSource(url);
source.onopen = () => tell({ type: "open", id: "", data: "null" });
for (const type of types) {
  source.addEventListener(type, ({ lastEventId, data }) => tell({ type, id: lastEventId, data }));
}
