// The page of one run: how far it is, its returns, the last dream, and every curve in sections.

import { Chart } from "./chart.js";
import { arrange, h } from "./elements.js";
import { bar, chip } from "./overview.js";
import { sections } from "./store.js";
import { ago, short } from "./text.js";

const still = matchMedia("(prefers-reduced-motion: reduce)");

/** The page of a run. It is made once and then kept up to date by `draw`. */
export class Details {
  constructor(parent) {
    this.parent = parent;
    this.charts = new Map();
    this.sections = new Map();
    this.head = h("div", { class: "head" });
    this.trouble = h("div", { class: "stack" });
    this.returns = new Chart("Return", [{ name: "training episodes", colour: "c0" }, { name: "evaluation", colour: "c1", points: true }], { large: true });
    this.dream = new Dream();
    this.rest = h("div", { class: "stack" });
    parent.replaceChildren(this.head, this.trouble,
      h("div", { class: "pair" }, h("section", { class: "card", "aria-label": "Return" }, this.returns.figure), this.dream.card), this.rest);
  }

  /** Draw the run. row: of the list; run: its details and curves, as they are known. */
  draw(row, run, now) {
    arrange(this.head, []);
    this.head.append(...summary(row, run, now));
    this.drawTroubles(row, run);
    this.returns.draw([run.curves.get("episode/return"), run.curves.get("eval/return")]);
    this.dream.draw(run.id, run.pictures ?? []);
    this.drawSections(run.curves);
  }

  /** Draw errors, alarms and output, if they changed: an opened output stays open. */
  drawTroubles(row, run) {
    const what = JSON.stringify([row.error, row.problem, run.alarms, run.log]);
    if (what === this.troubles) return;
    this.troubles = what;
    this.trouble.replaceChildren(...troubles(row, run));
  }

  drawSections(curves) {
    const found = sections(curves.keys());
    arrange(this.rest, found.map(([title]) => this.section(title).card));
    for (const [title, names] of found) {
      arrange(this.section(title).charts, names.map((name) => this.chart(name).figure));
      for (const name of names) this.drawChart(name, curves.get(name));
    }
  }

  drawChart(name, curve) {
    const chart = this.chart(name);
    if (chart.latest === curve) return;
    chart.latest = curve;
    chart.draw([curve]);
  }

  section(title) {
    if (!this.sections.has(title)) {
      const charts = h("div", { class: "charts" });
      this.sections.set(title, { charts, card: h("section", { class: "card", "aria-label": title }, h("h2", {}, title), charts) });
    }
    return this.sections.get(title);
  }

  chart(name) {
    if (!this.charts.has(name)) {
      const shown = name.replace(/^(loss|perf|grad_norm|agent)\//, "");
      this.charts.set(name, new Chart(shown, [{ name: shown, colour: "c0" }]));
    }
    return this.charts.get(name);
  }

  /** Draw the curves again at the width that they have now. */
  resize() {
    for (const chart of this.charts.values()) if (chart.curves) chart.draw(chart.curves);
    if (this.returns.curves) this.returns.draw(this.returns.curves);
  }
}

function summary(row, run, now) {
  const parts = [["encoder", run.encoder], ["dynamics", run.dynamics], ["decoder", run.decoder], ["agent", row.agent]].filter((pair) => pair[1]);
  const facts = [["environment", row.env], ...parts, ["seed", row.seed], ["started", ago(row.started, now)], ["last line", ago(row.changed, now)],
    ["memory", run.perf?.rss_mb == null ? null : `${short(run.perf.rss_mb)} MB`]];
  return [
    h("div", { class: "title" }, h("a", { href: "#", class: "back" }, "All runs"), h("h2", {}, row.name), chip(row.state)),
    bar(row),
    h("dl", { class: "facts" }, ...facts.filter(([, value]) => value != null && value !== "" && value !== "–")
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))))),
  ];
}

function troubles(row, run) {
  const texts = [row.error, row.problem].filter(Boolean).map((text) => h("p", { class: "warning" }, h("b", {}, "Error: "), text));
  const alarms = (run.alarms ?? []).map((text) => h("p", { class: "warning" }, h("b", {}, "Alarm, "), text));
  const log = run.log ? [h("details", { class: "card" }, h("summary", {}, "The end of its output"), h("pre", { class: "scroll", tabindex: 0 }, run.log))] : [];
  return [...texts, ...alarms, ...log];
}

/** The dreams of a run: the newest, or the one of a chosen step; as an animation unless motion is not wanted. */
class Dream {
  constructor() {
    this.image = h("img", { alt: "" });
    this.slider = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Step of the dream", input: () => this.choose() });
    this.step = h("span", { class: "number" });
    this.moves = h("button", { type: "button", "aria-pressed": "false", click: () => { this.moving = !this.moving; this.show(); } }, "Animate");
    this.moving = !still.matches;
    this.strip = h("div", { class: "scroll strip" }, this.image);
    this.card = h("section", { class: "card", "aria-label": "Dream", hidden: true }, h("h2", {}, "Dream"), this.strip,
      h("div", { class: "row" }, this.slider, this.step, this.moves));
    this.steps = [];
  }

  draw(id, names) {
    const steps = [...new Set(names.filter((name) => name.startsWith("dream-")).map((name) => name.replace(/\.\w+$/, "")))];
    const newest = this.chosen == null || this.chosen === this.steps.at(-1);
    this.id = id;
    this.names = new Set(names);
    this.steps = steps;
    this.card.hidden = !steps.length;
    if (!steps.length) return;
    if (newest || !steps.includes(this.chosen)) this.chosen = steps.at(-1);
    this.slider.max = steps.length - 1;
    this.slider.value = steps.indexOf(this.chosen);
    this.show();
  }

  choose() {
    this.chosen = this.steps[Number(this.slider.value)];
    this.show();
  }

  show() {
    const animated = this.names.has(`${this.chosen}.webp`);
    this.moves.hidden = !animated;
    this.moves.setAttribute("aria-pressed", String(this.moving));
    const name = `${this.chosen}.${animated && this.moving ? "webp" : "png"}`;
    const address = `/picture?run=${this.id}&name=${encodeURIComponent(name)}`;
    if (this.image.getAttribute("src") !== address) this.image.setAttribute("src", address);
    const step = Number(this.chosen.slice("dream-".length)).toLocaleString("en");
    this.step.textContent = `step ${step}`;
    this.image.alt = `Real frames above the model's open-loop dream at step ${step}`;
    this.slider.disabled = this.steps.length < 2;
    this.slider.setAttribute("aria-valuetext", `step ${step}`);
  }
}
