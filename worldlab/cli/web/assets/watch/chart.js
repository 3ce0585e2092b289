// A chart of curves over the environment step, as SVG. The first half needs no document.

import { h, s } from "./elements.js";
import { short, whole } from "./text.js";

/** The range of some numbers with a little room; a constant gets a range of its own. */
export function range(lists) {
  let low = Infinity, high = -Infinity;
  for (const values of lists) for (const value of values) {
    if (value == null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  const room = (high - low) * 0.05 || Math.max(Math.abs(high) * 0.1, 1e-3);
  return [low - room, high + room];
}

/** About `count` round numbers from low to high. */
export function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let number = Math.ceil(low / step); number * step <= high; number += 1) found.push(Number((number * step).toPrecision(12)));
  return found;
}

/** The path through points that `across` and `down` place. */
export function path(x, y, across, down) {
  let text = "";
  for (let index = 0; index < x.length; index += 1) {
    text += `${index ? "L" : "M"}${across(x[index]).toFixed(1)} ${down(y[index]).toFixed(1)}`;
  }
  return text;
}

/** The index of the number nearest to `wanted` in a rising list; -1 for an empty one. */
export function nearest(x, wanted) {
  let low = 0, high = x.length - 1;
  if (high < 0) return -1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] < wanted) low = middle; else high = middle;
  }
  return wanted - x[low] <= x[high] - wanted ? low : high;
}

/** The small curve beside a run: a path in a box of 100 x 24 and its last point. points: [[step, value], ...] */
export function spark(points) {
  if (points.length < 2) return null;
  const x = points.map((point) => point[0]), y = points.map((point) => point[1]);
  const [low, high] = range([y]), [first, last] = [x[0], x[x.length - 1]];
  const across = (step) => 2 + 94 * (last > first ? (step - first) / (last - first) : 0);
  const down = (value) => 22 - 20 * (value - low) / (high - low);
  return { d: path(x, y, across, down), end: [across(last), down(y[y.length - 1])] };
}

const SMALL = { left: 50, right: 4, top: 5, bottom: 5 };
const LARGE = { left: 52, right: 12, top: 8, bottom: 24 };

/** A chart in a figure. It shows the values under the pointer; the arrow keys move it, too. */
export class Chart {
  /** lines: [{ name, colour, points }]: points draws every point of the curve, too. */
  constructor(title, lines, { large = false, height = large ? 240 : 80 } = {}) {
    this.title = title;
    this.lines = lines;
    this.large = large;
    this.height = height;
    this.at = null;
    this.values = h("span", { class: "number values" });
    this.svg = s("svg", { role: "img", tabindex: 0, height });
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("blur", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => this.press(event));
    const name = h("b", {}, title);
    this.figure = h("figure", { class: large ? "chart large" : "chart" },
      h("figcaption", {}, name, this.values), this.svg);
  }

  /** Draw curves: one { x, y } per line, or null. */
  draw(curves) {
    this.curves = curves.map((curve) => curve ?? { x: [], y: [] });
    const width = Math.max(120, this.svg.parentElement.clientWidth), edge = this.large ? LARGE : SMALL;
    const [first, last] = [Math.min(...this.curves.map(({ x }) => x[0] ?? Infinity)), Math.max(...this.curves.map(({ x }) => x.at(-1) ?? -Infinity))];
    const [low, high] = range(this.curves.map(({ y }) => y));
    const span = last > first ? last - first : 1, start = first < Infinity ? (last > first ? first : first - 0.5) : 0;
    this.across = (step) => edge.left + (width - edge.left - edge.right) * (step - start) / span;
    this.back = (x) => start + span * (x - edge.left) / (width - edge.left - edge.right);
    this.down = (value) => this.height - edge.bottom - (this.height - edge.top - edge.bottom) * (value - low) / (high - low);
    this.cursor = s("line", { class: "cursor", y1: edge.top, y2: this.height - edge.bottom });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.svg.setAttribute("aria-label", this.describe());
    this.svg.replaceChildren(...(this.large ? this.axes(width, low, high, start, start + span) : []), ...this.drawn(), ...(this.large ? [] : this.bounds()), this.cursor);
    this.mark();
  }

  drawn() {
    return this.curves.flatMap(({ x, y }, index) => {
      const { colour, points } = this.lines[index];
      const line = s("path", { class: `line ${colour}`, d: path(x, y, this.across, this.down) });
      const dots = points || x.length === 1 ? x.map((step, k) => s("circle", { class: colour, r: this.large ? 3 : 2, cx: this.across(step).toFixed(1), cy: this.down(y[k]).toFixed(1) })) : [];
      return [line, ...dots];
    });
  }

  axes(width, low, high, start, end) {
    const rows = ticks(low, high, 5).flatMap((value) => {
      const y = this.down(value).toFixed(1);
      return [s("line", { class: "hair", x1: LARGE.left, x2: width - LARGE.right, y1: y, y2: y }), s("text", { x: LARGE.left - 6, y, class: "end middle" }, short(value))];
    });
    const columns = ticks(start, end, Math.max(3, Math.floor(width / 140))).map((step) =>
      s("text", { x: Math.min(width - LARGE.right - 14, Math.max(LARGE.left + 8, this.across(step))).toFixed(1), y: this.height - 6, class: "centre" }, whole(step)));
    return [...rows, ...columns];
  }

  /** The least and the largest value of a small chart, which has no axes. */
  bounds() {
    const values = this.curves.flatMap(({ y }) => y), [low, high] = [Math.min(...values), Math.max(...values)];
    const labels = !values.length ? [] : low === high ? [low] : [low, high];
    return labels.map((value) => s("text", { x: SMALL.left - 5, y: Math.min(this.height - 8, Math.max(8, this.down(value))).toFixed(1), class: "end middle" }, short(value, 3)));
  }

  describe() {
    const texts = this.curves.map(({ x, y }, index) =>
      x.length ? `${this.lines[index].name}: ${short(y.at(-1))} at step ${whole(x.at(-1))}, from ${short(Math.min(...y))} to ${short(Math.max(...y))}` : `${this.lines[index].name}: no points yet`);
    return `${this.title}. ${texts.join(". ")}`;
  }

  /** Show the values at a place in pixels; null shows the newest. */
  point(x) {
    this.at = x == null || !this.back ? null : this.back(x);
    this.mark();
  }

  press(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key], { x } = this.longest();
    if (!move || !x.length) return;
    event.preventDefault();
    const here = this.at == null ? x.length - 1 : nearest(x, this.at);
    this.at = x[Math.min(x.length - 1, Math.max(0, here + move))];
    this.mark();
  }

  /** The curve with the most points, which the pointer follows. */
  longest() { return (this.curves ?? []).reduce((a, b) => (b.x.length > a.x.length ? b : a), { x: [], y: [] }); }

  /** Write the values at the pointer, or the newest ones; of a curve without a point there, those of the nearest. */
  mark() {
    if (!this.curves) return;
    const { x: steps } = this.longest(), step = this.at == null ? null : steps[nearest(steps, this.at)];
    const shown = this.curves.flatMap(({ x, y }, index) => {
      const k = step == null ? x.length - 1 : nearest(x, step), { name, colour } = this.lines[index];
      const where = step != null && x[k] !== step ? ` at ${whole(x[k])}` : "";
      return k < 0 ? [] : [h("span", { class: `entry ${colour}` }, this.lines.length > 1 ? `${name} ` : "", short(y[k]), where)];
    });
    this.values.replaceChildren(...shown, ...(step == null ? [] : [h("span", { class: "soft" }, `step ${whole(step)}`)]));
    this.cursor.toggleAttribute("hidden", step == null);
    if (step == null) return;
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, this.across(step).toFixed(1));
  }
}
