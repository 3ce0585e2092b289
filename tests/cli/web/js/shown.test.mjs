import assert from "node:assert/strict";
import test from "node:test";
import { path, range, short } from "../../../../worldlab/cli/web/assets/play/charts.js";
import { bounds, share } from "../../../../worldlab/cli/web/assets/play/codes.js";
import { best, branchPath } from "../../../../worldlab/cli/web/assets/play/fan.js";
import { connect, unpack } from "../../../../worldlab/cli/web/assets/socket.js";

test("a range holds all values and gaps do not count", () => {
  const [low, high] = range([[1, null, 3], [undefined, 2, -1]]);
  assert.ok(low < -1 && high > 3);
  assert.deepEqual(range([[null], []]), [0, 1]);
  const [below, above] = range([[5, 5]]);
  assert.ok(below < 5 && above > 5);
});

test("a path goes from left to right, upwards for larger values, with gaps", () => {
  assert.equal(path([0, 1], [0, 1], 2, 108, 58), "M4.0 54.0L104.0 4.0");
  assert.equal(path([0, null, 1], [0, 1], 3, 108, 58), "M4.0 54.0M104.0 4.0");
});

test("numbers are short", () => {
  assert.deepEqual([0, 1.23456, 12345, 0.00001, null].map(short), ["0", "1.23", "1.2e+4", "1.0e-5", "–"]);
});

test("codes have a share and bounds by their kind", () => {
  const classes = { kind: "categorical", classes: 5 }, real = { kind: "gaussian", classes: 0 };
  assert.deepEqual([0, 4].map((value) => share(value, classes)), [0, 1]);
  assert.deepEqual([-9, 0, 9].map((value) => share(value, real)), [0, 0.5, 1]);
  assert.deepEqual(bounds(2, classes), { min: 0, max: 4, step: 1 });
  assert.deepEqual(bounds(-4.2, real), { min: -5, max: 5, step: 0.05 });
});

test("the best future is the first of those with the largest return", () => {
  assert.equal(best([1, 3, 3, -1]), 1);
});

test("branches end at the middles of their strips", () => {
  assert.ok(branchPath(0, 4).endsWith("100 12.5") && branchPath(3, 4).endsWith("100 87.5"));
});

test("a binary message is read as a header and blobs", () => {
  const header = new TextEncoder().encode(JSON.stringify({ type: "frame", sizes: [2, 0, 3] }));
  const bytes = new Uint8Array(4 + header.length + 5);
  new DataView(bytes.buffer).setUint32(0, header.length);
  bytes.set(header, 4);
  bytes.set([1, 2, 3, 4, 5], 4 + header.length);
  const { type, blobs } = unpack(bytes.buffer);
  assert.equal(type, "frame");
  assert.deepEqual(blobs.map((blob) => [...blob]), [[1, 2], [], [3, 4, 5]]);
});

test("the socket speaks JSON, connects again when it is lost and not when it was refused", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const made = [], states = [], messages = [], sent = [];
  const make = (url) => { const one = { url, readyState: 1, send: (text) => sent.push(text) }; made.push(one); return one; };
  const server = connect((message) => messages.push(message), (state) => states.push(state), { make, place: { protocol: "http:", host: "127.0.0.1:1" } });
  made[0].onopen();
  made[0].onmessage({ data: '{"a": 1}' });
  server.send({ do: "play" });
  assert.equal(made[0].url, "ws://127.0.0.1:1/live");
  assert.deepEqual([messages, sent], [[{ a: 1 }], ['{"do":"play"}']]);
  made[0].onclose({ code: 1006, reason: "" });
  t.mock.timers.tick(500);
  assert.equal(made.length, 2);
  made[1].onclose({ code: 1008, reason: "too many messages" });
  t.mock.timers.tick(60000);
  assert.equal(made.length, 2);
  assert.deepEqual(states, ["open", "closed", "ended"]);
});
