// The icons, each a path in a box of 24 by 24.

import { svg } from "./dom.js";

const PATHS = {
  instances: "M4 5h7v6H4zM13 5h7v6h-7zM4 13h7v6H4zM13 13h7v6h-7z",
  methods: "M8 4c-3 0-3 2-3 4s0 3-2 4c2 1 2 2 2 4s0 4 3 4M16 4c3 0 3 2 3 4s0 3 2 4c-2 1-2 2-2 4s0 4-3 4",
  events: "M13 3 5 13.5h6L10.5 21 19 10h-6z",
  jobs: "M4 7h16M4 12h10M4 17h6M17 14v6m-3-3h6",
  chat: "M4 5h16v11H10l-4 4v-4H4z",
  metrics: "M4 19V5M4 19h16M7 15l4-5 3 3 5-7",
  theme: "M12 3a9 9 0 1 0 9 9 7 7 0 0 1-9-9z",
  key: "M8 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 12h9M18 12v3M15 12v2",
  help: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.5",
};

/** An icon; it says nothing to who cannot see it. */
export const icon = (name) => svg(
  "svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" },
  svg("path", { d: PATHS[name] }),
);
