// What is pressed, and where it can be pressed: keys, buttons and sliders for the controls of an environment.

import { short } from "./charts.js";
import { action, legend } from "./keys.js";

const ARROWS = { left: "←", up: "↑", down: "↓", right: "→", fire: "F" };
const MOST_NAMED = 5;  // choices up to which arrows are enough; more get a button each

const make = (name, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
};

export class Steering {
  /** places: the elements that hold the buttons, the sliders and the legend. changed(moved): something else is pressed, or a slider was moved. */
  constructor(places, changed) {
    Object.assign(this, { ...places, changed });
    this.pressed = new Set();
    this.sliders = [];
  }

  /** The action for what is pressed; last: the one before. */
  action(last) { return action(this.controls, this.pressed, this.sliders, last); }

  press(word, on) {
    if (on === this.pressed.has(word)) return;
    if (on) this.pressed.add(word); else this.pressed.delete(word);
    this.changed();
  }

  release() {
    this.pressed.clear();
    this.pad.querySelectorAll(".down").forEach((button) => button.classList.remove("down"));
    this.changed();
  }

  build(controls) {
    this.controls = controls;
    this.sliders = controls.axes.length ? [...controls.rest] : [];
    const words = new Set([...controls.choices.flatMap(({ needs }) => needs), ...controls.axes.flatMap(({ less, more }) => [less, more])]);
    const arrows = Object.entries(ARROWS).filter(([word]) => words.has(word));
    const listed = controls.choices.length > MOST_NAMED || (controls.choices.length > 0 && !arrows.length);
    const buttons = listed ? controls.choices.map(({ name }, index) => [index, name]) : arrows;
    this.pad.classList.toggle("list", listed);
    this.pad.replaceChildren(...buttons.map(([word, text]) => this.button(word, text)));
    this.axes.replaceChildren(...controls.axes.map((axis, index) => this.slider(axis, index)));
    this.legend.replaceChildren(...legend(controls).slice(0, 12).map(([key, what]) => make("li", {}, make("kbd", {}, key), ` ${what}`)));
  }

  /** A button that presses a word, or a digit, while it is held with a pointer, Enter or Space. */
  button(word, text) {
    const button = make("button", { textContent: text });
    button.dataset.word = word;
    button.setAttribute("aria-label", typeof word === "number" ? text : `press ${word}`);
    const hold = (on) => { button.classList.toggle("down", on); this.press(word, on); };
    button.onpointerdown = (event) => { button.setPointerCapture(event.pointerId); hold(true); };
    button.onpointerup = button.onpointercancel = button.onlostpointercapture = () => hold(false);
    button.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      hold(true);
    };
    button.onkeyup = button.onblur = () => hold(false);
    button.oncontextmenu = (event) => event.preventDefault();
    return button;
  }

  slider({ name, low, high }, index) {
    const value = make("span", { className: "number", textContent: short(this.sliders[index]) });
    const slider = make("input", { type: "range", min: low, max: high, step: (high - low) / 100, value: this.sliders[index] });
    slider.oninput = () => {
      this.sliders[index] = Number(slider.value);
      value.textContent = short(this.sliders[index]);
      this.changed(true);
    };
    return make("label", { className: "row" }, name, slider, value);
  }
}
