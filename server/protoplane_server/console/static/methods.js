// The panel of methods: every method of every service that the instance serves.

import { breakable, el } from "./dom.js";
import { elsewhere } from "./discovery.js";
import { methodView } from "./method.js";
import { KINDS } from "./method_head.js";

const MAX_VIEWS = 30;

/** The panel. */
export function methodsPanel(app) {
  const { api, discovery } = app;
  const views = new Map();
  const links = new Map();
  const filter = el("input", {
    type: "search", id: "method-filter", placeholder: "Filter methods", "aria-label": "Filter methods",
    input: () => draw(),
  });
  const list = el("div", { class: "list" });
  const place = el("div", { class: "place" });
  const others = el("p", { class: "dim" });
  const node = el("div", { class: "split" },
    el("nav", { class: "side", "aria-label": "Methods" }, filter, list), place);
  const side = node.firstChild;
  let current = null;

  const all = api.services.flatMap((service) =>
    service.methods.map((method) => ({ service, method, route: method.path.slice(1) })));

  for (const service of api.services) {
    list.append(el("section", { "data-service": service.name },
      el("h2", { title: service.doc }, breakable(service.name)),
      el("ul", { class: "plain" }, service.methods.map((method) => {
        const link = el("a", { href: `#methods${method.path}` }, method.name,
          method.kind === "unary" ? null : el("span", { class: "badge" }, KINDS[method.kind]));
        links.set(method.path.slice(1), link);
        return el("li", {}, link);
      }))));
  }

  function draw() {
    const wanted = filter.value.trim().toLowerCase();
    for (const { route } of all) {
      links.get(route).parentNode.hidden = !route.toLowerCase().includes(wanted);
    }
    for (const section of list.children) {
      section.hidden = !section.querySelector("li:not([hidden])");
    }
  }

  function open(route) {
    const found = all.find((each) => each.route === route) ?? all[0];
    if (!found) {
      place.replaceChildren(el("p", { class: "empty" }, "It serves no methods."));
      return;
    }
    if (current !== found.route) {
      links.get(current)?.removeAttribute("aria-current");
      links.get(found.route).setAttribute("aria-current", "page");
      current = found.route;
      // Not scrollIntoView, which would move the page as well.
      const { offsetTop, offsetHeight } = links.get(current);
      if (offsetTop < side.scrollTop || offsetTop + offsetHeight > side.scrollTop + side.clientHeight) {
        side.scrollTop = offsetTop - side.clientHeight / 3;
      }
    }
    let view = views.get(found.route);
    if (!view) {
      view = methodView(app, found.service, found.method);
      views.set(found.route, view);
      if (views.size > MAX_VIEWS) {
        const [oldest, old] = views.entries().next().value;
        old.stop();
        views.delete(oldest);
      }
    }
    const served = elsewhere(discovery, found.service.name);
    others.replaceChildren(...(served.length ? ["Also served by ", ...served.flatMap((each, index) => [
      index ? ", " : "",
      el("a", { href: `${each.console}#methods${found.method.path}`, target: "_blank", rel: "noopener" }, each.name),
    ]), ". Calls from here go to this instance."] : []));
    place.replaceChildren(view.node, others);
  }

  return {
    name: "methods",
    label: "Methods",
    node,
    filter,
    show: (route) => open(route || current),
    hide() {},
    stop: () => views.get(current)?.stop() ?? false,
  };
}
