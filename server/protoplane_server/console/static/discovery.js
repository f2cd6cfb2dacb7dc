// Who is there: what the instance knows of discovery, followed for as long as the page is open.

import { ask, root } from "./calls.js";
import { follow } from "./follow.js";

const PING_MS = 10_000;
const JOINED = "INSTANCE_CHANGE_KIND_JOINED";
const LEFT = "INSTANCE_CHANGE_KIND_LEFT";

/** The instances by name, kept up to date. Dispatches `change` and `state`. */
export class Discovery extends EventTarget {
  constructor(self, services) {
    super();
    this.self = self;
    this.instances = new Map();
    /** What happened, the newest first: `{kind, name, at}`. */
    this.log = [];
    this.state = "connecting";
    this.error = null;
    this.known = false;
    this.snapshot = null;
    if (self.watches) this.#watch();
    else this.#alone(services);
  }

  #watch() {
    follow("/console/instances", {
      onEvent: (event) => { if (event.type === "message") this.#take(JSON.parse(event.data)); },
      onState: (state, error) => {
        if (state === "connecting") this.snapshot = new Map();
        this.#become(state, error);
      },
    });
  }

  #take({ changes = [], more = false }) {
    if (this.snapshot) {
      for (const { instance } of changes) this.snapshot.set(instance.name, instance);
      if (more) return;
      for (const name of this.instances.keys()) if (!this.snapshot.has(name)) this.#note("left", name);
      for (const name of this.snapshot.keys()) {
        if (this.known && !this.instances.has(name)) this.#note("joined", name);
      }
      this.instances = this.snapshot;
      this.snapshot = null;
      this.known = true;
    } else {
      for (const { kind, instance } of changes) {
        if (kind === LEFT) this.instances.delete(instance.name);
        else this.instances.set(instance.name, instance);
        if (kind === LEFT || kind === JOINED) this.#note(kind === LEFT ? "left" : "joined", instance.name);
      }
    }
    this.dispatchEvent(new Event("change"));
  }

  #note(kind, name) {
    this.log.unshift({ kind, name, at: Date.now() });
    this.log.length = Math.min(this.log.length, 50);
  }

  #alone(services) {
    const { name, namespace } = this.self;
    this.instances.set(name, {
      name, namespace, component: name.replace(/\/[^/]*$/, ""), endpoints: [root.origin],
      services: services.map((each) => each.name),
    });
    this.known = true;
    const ping = async () => {
      try {
        await ask("/healthz", { signal: AbortSignal.timeout(PING_MS) });
        this.#become("live");
      } catch (error) {
        this.#become("waiting", error);
      }
      setTimeout(ping, PING_MS);
    };
    ping();
  }

  #become(state, error = null) {
    this.state = state;
    this.error = error;
    this.dispatchEvent(new Event("state"));
  }

  /** Others that serve a service, and how a browser comes to them: `{name, console}`. */
  whoServes(service) {
    return [...this.instances.values()]
      .filter((each) => each.name !== this.self.name && (each.services ?? []).includes(service))
      .map((each) => ({ name: each.name, console: consoleOf(each) }));
  }
}

/** Where the console of an instance is; `null` where it has none that a browser could open. */
export function consoleOf(instance) {
  if (!(instance.protocols ?? []).includes("console")) return null;
  const http = (instance.endpoints ?? []).find((each) => /^https?:\/\//.test(each));
  if (!http) return null;
  const url = new URL("/console", http);
  // Whoever listens everywhere is where this page came from, as far as the browser can know.
  if (["0.0.0.0", "[::]"].includes(url.hostname)) url.hostname = location.hostname;
  return url.href;
}

/** A service that others serve: links to their consoles, or word that nobody does. */
export function elsewhere(discovery, service) {
  return discovery.whoServes(service).filter((each) => each.console);
}
