// Line charts in SVG, each with the same numbers as text.

import { el, freshId, svg } from "./dom.js";
import { clock } from "./text.js";

const WIDTH = 460;
const HEIGHT = 150;
const LEFT = 52;
const BOTTOM = 20;
const TOP = 8;

/**
 * A chart.
 *
 * @param title What it shows.
 * @param lines `{name, read, dashed}`: how each line is called, and its value of a point, or null.
 * @param format How a value is written.
 * @param least The scale goes at least up to this.
 */
export function chart({ title, lines, format, least = 1 }) {
  const id = freshId();
  const drawing = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": `${id}-title ${id}-said`, class: "chart",
  });
  const now = el("p", { class: "now" });
  const said = el("figcaption", { class: "offscreen", id: `${id}-said` });
  const table = el("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": `${title}, as a table` });
  let points = [];
  const asTable = el("details", { class: "as-table", toggle: () => tabulate() },
    el("summary", {}, "As a table"), table);
  const node = el("figure", { class: "card" },
    el("h3", { id: `${id}-title` }, title), now, drawing, said, asTable);
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  let pointed = null;
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const share = (x - LEFT) / (WIDTH - LEFT - 4);
    pointed = Math.min(points.length - 1, Math.max(0, Math.round(share * (points.length - 1))));
    legend();
  });
  drawing.addEventListener("pointerleave", () => { pointed = null; legend(); });

  const last = () => (points.length ? points[pointed ?? points.length - 1] : {});

  function legend() {
    const point = last();
    now.replaceChildren(...lines.map(({ name, read }, index) => el("span", {},
      el("span", { class: `swatch line-${index}` }), `${name} `, el("strong", {}, write(read(point))))),
      ...(pointed === null ? [] : [el("span", { class: "dim" }, clock(point.at))]));
    if (pointed === null) cursor.setAttribute("visibility", "hidden");
    else {
      const x = place(pointed);
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.setAttribute("visibility", "visible");
    }
  }

  const write = (value) => (value === null || value === undefined ? "–" : format(value));
  const place = (index) => LEFT + (index / Math.max(1, points.length - 1)) * (WIDTH - LEFT - 4);

  function draw(given) {
    points = given;
    const values = lines.flatMap(({ read }) => points.map(read)).filter((each) => each !== null && each !== undefined);
    const top = nice(Math.max(least, ...values));
    const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP);
    const grid = [0, 0.5, 1].map((share) => [
      svg("line", { x1: LEFT, x2: WIDTH - 4, y1: y(top * share), y2: y(top * share), class: "grid" }),
      svg("text", { x: LEFT - 6, y: y(top * share) + 4, "text-anchor": "end" }, format(top * share)),
    ]);
    const times = points.length > 1 ? [0, points.length - 1].map((index) => svg("text", {
      x: place(index), y: HEIGHT - 4, "text-anchor": index ? "end" : "start",
    }, clock(points[index].at))) : [];
    const paths = lines.map(({ read }, index) => svg("path", { class: `line line-${index}`, d: path(points, read, y) }));
    drawing.replaceChildren(...grid.flat(), ...times, ...paths, cursor);
    said.textContent = lines.map(({ name, read }) => {
      const known = points.map(read).filter((each) => each !== null && each !== undefined);
      return known.length
        ? `${name}: now ${write(read(points.at(-1)))}, highest ${write(Math.max(...known))}`
        : `${name}: nothing yet`;
    }).join("; ");
    legend();
    tabulate();
  }

  function path(all, read, y) {
    let drawn = "";
    let gap = true;
    all.forEach((point, index) => {
      const value = read(point);
      if (value === null || value === undefined) { gap = true; return; }
      drawn += `${gap ? "M" : "L"}${place(index).toFixed(1)} ${y(value).toFixed(1)}`;
      gap = false;
    });
    return drawn;
  }

  function tabulate() {
    if (!asTable.open) return;
    table.replaceChildren(el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "time"),
        lines.map(({ name }) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, points.slice(-30).reverse().map((point) => el("tr", {},
        el("th", { scope: "row" }, clock(point.at)), lines.map(({ read }) => el("td", {}, write(read(point)))))))));
  }
  return { node, draw };
}

/** The next 1, 2 or 5 times a power of ten. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value * 0.999) ?? value;
}
