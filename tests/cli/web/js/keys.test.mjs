import assert from "node:assert/strict";
import test from "node:test";
import { action, choose, legend, meaning } from "../../../../worldlab/cli/web/assets/play/keys.js";

const car = { choices: [], axes: [
  { name: "steer", low: -1, high: 1, rest: 0, less: "left", more: "right" },
  { name: "gas", low: 0, high: 1, rest: 0, less: "", more: "up" }] };
const pole = { axes: [], choices: [{ name: "left", needs: ["left"] }, { name: "right", needs: ["right"] }] };
const game = { axes: [], choices: [{ name: "noop", needs: [] }, { name: "up", needs: ["up"] }, { name: "upfire", needs: ["up", "fire"] }] };
const held = (...words) => new Set(words);

test("arrows, WASD and digits have meanings, other keys none", () => {
  assert.equal(meaning("ArrowLeft"), "left");
  assert.equal(meaning("W"), "up");
  assert.equal(meaning("7"), 7);
  for (const key of ["q", "Enter", "constructor", "12"]) assert.equal(meaning(key), null);
});

test("the choice that needs most of what is pressed is taken", () => {
  assert.equal(choose(game.choices, held("up", "fire", "left")), 2);
  assert.equal(choose(game.choices, held("fire")), 0);
  assert.equal(choose(pole.choices, held()), null);
});

test("without a fitting choice the last action stays, and digits choose directly", () => {
  assert.equal(action(pole, held(), [], 1), 1);
  assert.equal(action(game, held(), [], 2), 0);
  assert.equal(action(game, held("up", 2), [], 0), 2);
  assert.equal(action(pole, held(9), [], 1), 1);
});

test("keys push an axis to its bounds, both or none leave the slider", () => {
  assert.deepEqual(action(car, held("left", "up"), [0.2, 0.3], null), [-1, 1]);
  assert.deepEqual(action(car, held("left", "right"), [0.2, 0.3], null), [0.2, 0.3]);
  assert.deepEqual(action(car, held("down"), [0.2, 0.3], null), [0.2, 0.3]);
});

test("the legend says what each key does", () => {
  assert.deepEqual(legend(car), [["←", "steer −"], ["→", "steer +"], ["↑", "gas +"]]);
  assert.deepEqual(legend(game), [["0", "noop"], ["↑", "up"], ["↑F", "upfire"]]);
});
