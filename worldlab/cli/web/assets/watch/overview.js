// The list of runs and the grids of comparisons. Only what changed is drawn again.

import { spark } from "./chart.js";
import { arrange, h, s, setText } from "./elements.js";
import { comparisons, counted, matches, sorted } from "./store.js";
import { ago, duration, progress, short, STATES, whole } from "./text.js";

const ADDRESS = (row) => `#run-${row.id}`;
const drawn = new Map();  // id -> { row, element }

/** The state of a run: its mark and its word. */
export function chip(state) {
  const { mark, says } = STATES[state] ?? STATES.damaged;
  return h("span", { class: `chip ${state}`, title: says }, h("span", { "aria-hidden": "true", class: "mark" }, mark), state);
}

/** How far a run is: a bar, the steps, and the time left. */
export function bar(row) {
  const part = row.state === "finished" && !row.step ? null : progress(row), label = `${whole(row.step)} of ${whole(row.steps)} steps`;
  const left = row.left != null ? `${duration(row.left)} left` : "";
  const speed = row.speed != null ? `${short(row.speed)} steps/s` : "";
  return h("div", { class: "bar" },
    part == null ? null : h("progress", { value: part, max: 1, "aria-label": label, class: row.state }),
    h("div", { class: "number" }, part == null ? "" : part === 1 ? whole(row.step) : `${whole(row.step)} of ${whole(row.steps)}`),
    left || speed ? h("div", { class: "soft number" }, [left, speed].filter(Boolean).join(", ")) : null);
}

const SCORED = { episodes: "training episodes", evaluation: "last evaluation", final: "final evaluation" };

function curve(row) {
  const found = spark(row.spark);
  if (!found) return "";
  return s("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { d: found.d, class: "line c0", "vector-effect": "non-scaling-stroke" }));
}

function make(row, now) {
  const alarms = row.alarms ? h("span", { class: "alarms" }, `⚠ ${row.alarms} alarm${row.alarms > 1 ? "s" : ""}`) : null;
  const trouble = row.error || row.problem;
  return h("tr", {},
    h("th", { scope: "row" }, h("a", { href: ADDRESS(row) }, row.name),
      h("div", { class: "soft" }, row.env, row.seed == null ? "" : `${row.env ? ", " : ""}seed ${row.seed}`),
      trouble ? h("div", { class: "trouble" }, trouble) : null),
    h("td", { class: "state" }, chip(row.state), alarms),
    h("td", { class: "parts" }, row.parts ? h("div", {}, row.parts) : null, h("div", { class: "soft" }, row.agent)),
    h("td", { class: "steps" }, bar(row)),
    h("td", { class: "score end" }, ...(row.score == null ? [] : [h("div", { class: "number" }, short(row.score)), h("div", { class: "soft" }, SCORED[row.scored])])),
    h("td", { class: "curve" }, curve(row)),
    h("td", { class: "started end soft" }, ago(row.started, now)));
}

/** Draw the list. find: the text of the search; sort: a column; cells: whether cells of comparisons are listed, too. */
export function drawOverview(store, { find, sort, cells }) {
  const all = [...store.rows.values()], rows = sorted(all.filter((row) => (find || cells || !row.comparison) && matches(row, find)), sort);
  for (const id of [...drawn.keys()]) if (!store.rows.has(id)) drawn.delete(id);
  const elements = rows.map((row) => {
    if (drawn.get(row.id)?.row !== row) drawn.set(row.id, { row, element: make(row, store.about.now) });
    return drawn.get(row.id).element;
  });
  arrange(document.getElementById("rows"), elements);
  drawGrids(all);
  const states = counted(all).map(([state, count]) => `${count} ${state}`).join(", ");
  setText(document.getElementById("counts"),
    `${rows.length === all.length ? "" : `${rows.length} of `}${all.length} run${all.length === 1 ? "" : "s"}${states ? `: ${states}` : ""}`);
  const empty = document.getElementById("empty");
  empty.hidden = rows.length > 0 || (all.length > 0 && !find);
  document.getElementById("with-cells").hidden = !all.some((row) => row.comparison);
  document.getElementById("runs").hidden = rows.length === 0;
  empty.textContent = all.length ? "No run matches." : store.about.reading ? "Reading the folder." : "No runs here yet. They appear by themselves.";
}

/** Write the times again, which pass also where nothing happens. */
export function drawTimes(now) {
  for (const { row, element } of drawn.values()) element.lastElementChild.textContent = ago(row.started, now);
}

let gridsOf = [];

function drawGrids(all) {
  const cells = all.filter((row) => row.comparison);
  if (cells.length === gridsOf.length && cells.every((row, index) => row === gridsOf[index])) return;
  gridsOf = cells;
  document.getElementById("comparisons").replaceChildren(...comparisons(all).map(grid));
}

function grid({ name, envs, methods, cells }) {
  const rows = [...cells.values()].flat(), done = rows.filter((row) => row.state === "finished").length;
  const states = counted(rows).map(([state]) => h("li", {}, chip(state)));
  return h("section", { class: "card comparison", "aria-label": `Comparison ${name}` },
    h("h2", {}, name, h("span", { class: "soft" }, ` ${done} of ${rows.length} cells finished`)),
    h("progress", { value: done, max: rows.length, class: "finished", "aria-label": `${done} of ${rows.length} cells finished` }),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Cells of ${name}` }, h("table", { class: "grid" },
      h("thead", {}, h("tr", {}, h("td", {}), ...envs.map((env) => h("th", { scope: "col" }, env)))),
      h("tbody", {}, ...methods.map((method) => h("tr", {}, h("th", { scope: "row" }, method),
        ...envs.map((env) => h("td", {}, group(cells.get(`${method}\n${env}`) ?? []))))))),
    ), h("ul", { class: "legend", "aria-label": "Marks" }, ...states));
}

function group(rows) {
  const scores = rows.filter((row) => row.score != null && row.scored === "final").map((row) => row.score);
  const mean = scores.length ? scores.reduce((a, b) => a + b, 0) / scores.length : null;
  return h("div", { class: "cells" }, ...rows.map(cell), mean == null ? "" : h("span", { class: "number soft" }, short(mean)));
}

function cell(row) {
  const part = progress(row), part_ = row.state === "training" && part != null ? `, ${Math.round(100 * part)}%` : "";
  const says = `seed ${row.seed}: ${row.state}${part_}${row.score == null ? "" : `, return ${short(row.score)}`}${row.error ? `, ${row.error}` : ""}`;
  return h("a", { href: ADDRESS(row), class: `cell ${row.state}`, title: says, "aria-label": `${row.method}, ${row.env}, ${says}` },
    (STATES[row.state] ?? STATES.damaged).mark);
}
