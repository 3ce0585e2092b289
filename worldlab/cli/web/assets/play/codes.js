// The latent of a moment as tiles. A tile is chosen, and a slider changes its code.

import { short } from "./charts.js";

export const SPAN = 3;  // continuous codes are changed between -SPAN and SPAN, or as far as they are

/** The share of a code between its bounds, 0 to 1. */
export function share(value, { kind, classes }) {
  const part = kind === "categorical" ? value / Math.max(1, classes - 1) : (value + SPAN) / (2 * SPAN);
  return Math.min(1, Math.max(0, part));
}

/** Bounds and step of the slider for a code. */
export function bounds(value, { kind, classes }) {
  if (kind === "categorical") return { min: 0, max: classes - 1, step: 1 };
  const most = Math.max(SPAN, Math.ceil(Math.abs(value)));
  return { min: -most, max: most, step: 0.05 };
}

export class Codes {
  /** change(changes): requests the picture with the changes, {index: value}. */
  constructor(tiles, slider, label, change) {
    Object.assign(this, { tiles, slider, label, change });
    this.changes = {};
    this.chosen = null;
    slider.oninput = () => {
      if (this.chosen === null) return;
      this.changes[this.chosen] = Number(slider.value);
      this.change(this.changes);
    };
    tiles.onkeydown = (event) => this.move(event);
  }

  forget() { this.changes = {}; this.chosen = null; }

  /** Show the values of a "codes" message; spec: of the model's latent. */
  show(values, spec) {
    this.spec = spec;
    this.values = values;
    if (this.tiles.children.length !== values.length) {
      this.tiles.replaceChildren(...values.map((_, index) => {
        const tile = document.createElement("button");
        tile.className = "tile";
        tile.onclick = () => this.choose(index);
        return tile;
      }));
    }
    values.forEach((value, index) => {
      const tile = this.tiles.children[index], now = this.changes[index] ?? value;
      const changed = index in this.changes && this.changes[index] !== value;
      tile.textContent = spec.kind === "categorical" ? String(now) : now.toFixed(1);
      tile.style.setProperty("--share", share(now, spec).toFixed(3));
      tile.classList.toggle("changed", changed);
      tile.setAttribute("aria-pressed", String(index === this.chosen));
      tile.setAttribute("aria-label", `code ${index}: ${short(now)}${changed ? `, was ${short(value)}` : ""}`);
      tile.tabIndex = index === (this.chosen ?? 0) ? 0 : -1;
    });
    this.slider.disabled = this.chosen === null;
    this.label.textContent = this.chosen === null ? "Choose a code to change it." :
      `code ${this.chosen}: ${short(this.changes[this.chosen] ?? values[this.chosen])}, inferred ${short(values[this.chosen])}`;
  }

  choose(index) {
    this.chosen = index;
    const value = this.changes[index] ?? this.values[index];
    Object.assign(this.slider, bounds(value, this.spec));
    this.slider.value = value;
    this.show(this.values, this.spec);
  }

  /** Arrow keys walk over the tiles. */
  move(event) {
    const all = [...this.tiles.children], at = all.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -at, End: all.length - 1 - at }[event.key];
    if (at < 0 || step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    all[Math.min(all.length - 1, Math.max(0, at + step))].focus();
  }
}
