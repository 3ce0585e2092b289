// Curves over the steps of an episode, as SVG. A chart draws at most WINDOW steps and leaves gaps where values are missing.

export const WINDOW = 240;
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300, HEIGHT = 84, PAD = 4;

/** The smallest range that holds all values of some series, with a little room; a constant gets a range of its own. */
export function range(series) {
  let low = Infinity, high = -Infinity;
  for (const values of series) for (const value of values) {
    if (value == null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  const room = (high - low) * 0.06 || Math.max(Math.abs(high) * 0.1, 0.05);
  return [low - room, high + room];
}

/** The path of a series; null values are gaps. x goes over `count` places. */
export function path(values, [low, high], count = values.length, width = WIDTH, height = HEIGHT) {
  let text = "", on = false;
  values.forEach((value, index) => {
    if (value == null) { on = false; return; }
    const x = PAD + (width - 2 * PAD) * (count > 1 ? index / (count - 1) : 0);
    const y = PAD + (height - 2 * PAD) * (1 - (value - low) / (high - low));
    text += `${on ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    on = true;
  });
  return text;
}

/** A number in few characters. */
export function short(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  return size >= 1000 || (size > 0 && size < 0.001) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

export function element(name, attributes = {}, parent = null) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.append(node);
  return node;
}

/** A small chart with a title and one line for each of `lines`: [{ name, colour }], colour a class like "c0".
    limits: [low, high] of the axis; without them it fits the values. */
export class Chart {
  constructor(parent, title, unit, lines, limits = null) {
    Object.assign(this, { lines, limits });
    this.figure = document.createElement("figure");
    this.figure.className = "chart";
    const caption = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = title;
    caption.append(name);
    this.values = lines.map(({ name: label, colour }) => {
      const entry = document.createElement("span");
      entry.className = `entry ${colour}`;
      const number = document.createElement("span");
      number.className = "number";
      entry.append(`${label} `, number);
      caption.append(entry);
      return number;
    });
    this.figure.append(caption);
    this.svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
      "aria-label": `${title}${unit ? `, ${unit}` : ""}, over the last ${WINDOW} steps` }, this.figure);
    this.start = element("line", { class: "start", y1: 0, y2: HEIGHT, "vector-effect": "non-scaling-stroke" }, this.svg);
    this.cursor = element("line", { class: "cursor", y1: 0, y2: HEIGHT, "vector-effect": "non-scaling-stroke" }, this.svg);
    this.paths = lines.map(({ colour, dashed }) =>
      element("path", { class: `line ${colour}${dashed ? " dashed" : ""}`, "vector-effect": "non-scaling-stroke" }, this.svg));
    this.scale = document.createElement("span");
    this.scale.className = "scale number";
    this.figure.append(this.scale);
    parent.append(this.figure);
  }

  /** Draw series of equal length. at: the index that is shown; began: the index where the dream began, or null. */
  draw(series, at, began) {
    const count = Math.max(2, series[0].length), limits = this.limits ?? range(series);
    this.paths.forEach((node, index) => node.setAttribute("d", path(series[index], limits, count)));
    this.values.forEach((node, index) => { node.textContent = short(series[index][at]); });
    const [low, high] = limits.map(short);
    this.scale.textContent = low === high ? `about ${low}` : `${low} to ${high}`;
    for (const [node, place] of [[this.cursor, at], [this.start, began]]) {
      const x = PAD + (WIDTH - 2 * PAD) * (place ?? 0) / (count - 1);
      node.setAttribute("x1", x.toFixed(1));
      node.setAttribute("x2", x.toFixed(1));
      node.toggleAttribute("hidden", place == null);
    }
  }
}
