// What the page of `worldlab watch` does with messages, numbers and points; no browser is needed.

import assert from "node:assert/strict";
import test from "node:test";

const HERE = "../../../../worldlab/cli/web/assets/watch";
const { Store, comparisons, counted, extended, matches, sections, sorted } = await import(`${HERE}/store.js`);
const { ago, duration, progress, short } = await import(`${HERE}/text.js`);
const { nearest, path, range, spark, ticks } = await import(`${HERE}/chart.js`);

const row = (id, more = {}) => ({ id, name: `run-${id}`, state: "training", env: "CartPole-v1", parts: "vae", agent: "dreamer", method: "", error: "", seed: 0, ...more });
const runs = (rows, gone = [], first = false) => ({ type: "runs", rows, gone, first, folder: "runs", problem: "", reading: false, now: 1 });

test("rows are added, replaced and removed; a new connection begins anew", () => {
  const store = new Store();
  assert.equal(store.apply(runs([row(0), row(1)], [], true)), "list");
  store.apply(runs([row(1, { state: "finished" })], [0]));
  assert.deepEqual([...store.rows.values()].map(({ id, state }) => [id, state]), [[1, "finished"]]);
  store.apply(runs([row(5)], [], true));
  assert.deepEqual([...store.rows.keys()], [5]);
});

test("curves grow by what is new, and begin anew where the server says so", () => {
  const store = new Store();
  const message = (curves, names, id = 3) => ({ type: "run", id, curves, names, encoder: "vae" });
  assert.equal(store.apply(message({}, [])), null);
  store.show(3);
  store.apply(message({ a: { from: 0, x: [1, 2], y: [5, 6] }, b: { from: 0, x: [1], y: [7] } }, ["a", "b"]));
  store.apply(message({ a: { from: 2, x: [3], y: [8] } }, ["a"]));
  assert.deepEqual([...store.run.curves], [["a", { x: [1, 2, 3], y: [5, 6, 8] }]]);
  assert.equal(store.run.encoder, "vae");
  store.apply(message({ a: { from: 0, x: [1, 3], y: [5, 8] } }, ["a"]));
  assert.deepEqual(store.run.curves.get("a"), { x: [1, 3], y: [5, 8] });
  assert.equal(store.apply(message({ a: { from: 0, x: [], y: [] } }, ["a"], 4)), null, "another run");
  assert.deepEqual(store.run.curves.get("a").x, [1, 3]);
});

test("points that were sent twice are there once", () => {
  assert.deepEqual(extended({ x: [1, 2, 3], y: [1, 2, 3] }, { from: 2, x: [3, 4], y: [30, 40] }), { x: [1, 2, 3, 4], y: [1, 2, 30, 40] });
});

test("a search finds every word in any column", () => {
  const one = row(0, { name: "first", error: "disk full" });
  assert.ok(matches(one, "") && matches(one, "CARTPOLE vae") && matches(one, "disk training") && !matches(one, "cartpole finished"));
});

test("the order: numbers from the largest, times left from the least, texts from A, unknown last", () => {
  const rows = [row(0, { score: null, left: 9 }), row(1, { score: -5, left: null }), row(2, { score: 3, left: 1 })];
  const ids = (column) => sorted(rows, column).map(({ id }) => id);
  assert.deepEqual(ids("score"), [2, 1, 0]);
  assert.deepEqual(ids("left"), [2, 0, 1]);
  assert.deepEqual(sorted([row(0, { name: "b-10" }), row(1, { name: "b-9" }), row(2, { name: "A" })], "name").map(({ id }) => id), [2, 1, 0]);
});

test("the cells of comparisons are ordered by method, environment and seed", () => {
  const cell = (id, method, env, seed) => row(id, { comparison: "c", method, env, seed });
  const [one, ...none] = comparisons([cell(0, "vae", "B", 1), cell(1, "vae", "B", 0), cell(2, "cpc", "A", 0), row(3, { comparison: "" })]);
  assert.deepEqual([one.methods, one.envs, none], [["cpc", "vae"], ["A", "B"], []]);
  assert.deepEqual(one.cells.get("vae\nB").map(({ seed }) => seed), [0, 1]);
});

test("states are counted", () => {
  assert.deepEqual(counted([row(0), row(1, { state: "failed" }), row(2)]), [["training", 2], ["failed", 1]]);
});

test("every curve is in one section, and those of the large chart in none", () => {
  const names = ["perf/rss_mb", "loss/dyn", "latent/kl", "agent/value", "eval/return", "episode/return", "odd"];
  assert.deepEqual(sections(names), [["Losses", ["loss/dyn"]], ["Health", ["latent/kl"]], ["Agent", ["agent/value"]], ["Machine", ["perf/rss_mb"]], ["Other", ["odd"]]]);
});

test("numbers, times and progress as text", () => {
  assert.deepEqual([null, 0, 1234.5, -0.5, 1e-5, 2.5e7, NaN].map(short), ["–", "0", "1,235", "-0.5", "1.0e-5", "2.5e7", "–"]);
  assert.deepEqual([5, 90, 150, 7200, 9000, 3e5].map(duration), ["5 s", "90 s", "3 min", "2 h", "2 h 30 min", "3 d"]);
  assert.equal(ago(50, 40), "0 s ago");
  assert.deepEqual([progress({ step: 5, steps: 10 }), progress({ step: 20, steps: 10 }), progress({ step: 5, steps: null })], [0.5, 1, null]);
});

test("ranges have room, and ticks are round numbers within them", () => {
  assert.deepEqual(range([[0, 10], [null]]), [-0.5, 10.5]);
  assert.deepEqual(range([[]]), [0, 1]);
  const [low, high] = range([[7, 7]]);
  assert.ok(low < 7 && high > 7);
  assert.deepEqual(ticks(-53, 412, 5), [0, 100, 200, 300, 400]);
  assert.deepEqual(ticks(0.001, 0.0042, 3), [0.002, 0.004]);
});

test("paths go through their points; the nearest point is found", () => {
  assert.equal(path([0, 10], [1, 2], (x) => x, (y) => -y), "M0.0 -1.0L10.0 -2.0");
  assert.deepEqual([[], [5], [1, 2, 10], [1, 2, 10]].map((x, k) => nearest(x, [0, 9, 5, 7][k])), [-1, 0, 1, 2]);
  assert.equal(spark([[1, 1]]), null);
  const [across, down] = spark([[0, 0], [100, 10]]).end;
  assert.ok(across === 96 && Math.abs(down - (22 - 20 * 10.5 / 11)) < 1e-9);
});
