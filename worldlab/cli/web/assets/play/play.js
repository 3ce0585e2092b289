// The page of a game: sends what the person does, shows what the session answers.

import { connect } from "/socket.js";
import { Chart, WINDOW, short } from "/charts.js";
import { Codes } from "/codes.js";
import { showFan } from "/fan.js";
import { meaning } from "/keys.js";
import { Screen, buildScreens } from "/screens.js";
import { Steering } from "/steering.js";

const $ = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const game = { hello: null, log: new Map(), last: 0, shown: 0, playing: false, ended: "", driver: "person", sent: null, drawnAt: 0 };
const steering = new Steering({ pad: $("pad"), axes: $("axes"), legend: $("legend") }, steer);
let screens = {}, codeScreens = [], charts = [], entryCharts = [];

const server = connect(receive, (state, why) => {
  $("state").className = state;
  $("state").textContent = { open: "connected", closed: "connecting again", ended: "disconnected" }[state];
  if (state === "ended") notice(`The server closed the connection: ${why}. Reload the page to begin again.`);
});
const send = (message) => server.send(message);

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

function receive(message) {
  if (message.type === "hello") begin(message);
  else if (message.type === "frame") showFrame(message);
  else if (message.type === "futures") showBranch(message);
  else if (message.type === "codes") showCodes(message);
  else if (message.type === "error") notice(message.text);
}

// ---- building the page ----

function begin(hello) {
  Object.assign(game, { hello, log: new Map(), last: 0, shown: 0, sent: null });
  notice("");
  const about = hello.models.map(({ name, env, step, parts }, index) => {
    const line = document.createElement("div"), run = document.createElement("b");
    run.textContent = hello.models.length > 1 ? `${"AB"[index]}: ${name}` : name;
    line.append(run, ` ${env}, ${step.toLocaleString("en")} steps, ${parts.encoder} / ${parts.dynamics} / ${parts.decoder}, agent ${parts.agent}`);
    return line;
  });
  $("about").replaceChildren(...about);
  $("screens").replaceChildren();
  screens = buildScreens($("screens"), hello);
  buildCurves(hello);
  steering.build(hello.controls);
  const two = hello.models.length > 1;
  document.querySelectorAll(".which").forEach((label) => { label.hidden = !two; });
  for (const id of ["fan-model", "code-model"]) {
    $(id).replaceChildren(...hello.models.map(({ name }, index) => new Option(two ? `${"AB"[index]}: ${name}` : name, index)));
  }
  const tempered = hello.models.every((model) => model.temperature);
  $("temperature").disabled = !tempered;
  $("no-temperature").hidden = tempered;
  $("film").href = `/film.webp?game=${hello.game}`;
  if (hello.models.every((model) => !model.draws)) notice("These models draw nothing: they have neither a decoder that renders nor a probe. Their predictions are shown.");
  if (still.matches) $("speed").value = 5;
  sendSettings();
}

function buildCurves({ models, shows }) {
  const two = models.length > 1;
  const lines = (real) => [
    ...(real ? [{ name: "real", colour: "c6" }] : []),
    ...models.flatMap((_, index) => {
      const suffix = two ? ` ${"AB"[index]}` : "";
      return [{ name: `filtered${suffix}`, colour: `c${3 * index}`, dashed: index > 0 }, { name: `dream${suffix}`, colour: `c${1 + 3 * index}`, dashed: index > 0 }];
    })];
  const both = (name) => (entry) => entry.models.flatMap((model) => [model.seen[name], model.dreamt[name]]);
  const draws = models.some((model) => model.draws);
  const plans = [
    ["Reward", "", lines(true), (entry) => [entry.reward, ...both("reward")(entry)]],
    ["Continue", "probability", lines(false), both("cont"), [-0.05, 1.05]],
    models.some((model) => model.predicts.includes("value")) && ["Value", "discounted return", lines(false), both("value")],
    draws && ["Dream-to-real gap", "root mean squared error", models.map((_, index) => ({ name: two ? "AB"[index] : "error", colour: `c${1 + 3 * index}` })), (entry) => entry.models.map((model) => model.error)],
  ].filter(Boolean);
  $("charts").replaceChildren();
  charts = plans.map(([title, unit, series, read, limits]) => ({ chart: new Chart($("charts"), title, unit, series, limits), read }));
  entryCharts = [];
  $("entries").replaceChildren();
  $("entries").hidden = shows === "pictures";
}

/** Charts of the entries of a vector; how many there are is known with the first frame. */
function buildEntries(count) {
  const colours = game.hello.models.flatMap((_, index) => {
    const suffix = game.hello.models.length > 1 ? ` ${"AB"[index]}` : "";
    const seen = game.hello.models[index].by === "probe" ? "probe" : "reconstruction";
    return [{ name: seen + suffix, colour: `c${3 * index}` }, { name: `dream${suffix}`, colour: `c${1 + 3 * index}` }];
  });
  entryCharts = Array.from({ length: Math.min(count, 8) }, (_, entry) => ({
    chart: new Chart($("entries"), `entry ${entry}`, "", [{ name: "real", colour: "c6" }, ...colours]),
    read: ({ vectors, models }) => [vectors.real?.[entry], ...models.flatMap((model) => [model.reconstruction?.[entry], model.dream?.[entry]])],
  }));
}

// ---- what the person does ----

/** Send the action of what is pressed, if it is a new one. Who steers takes over, and who presses a key starts the game. */
function steer(moved = false) {
  if (!game.hello) return;
  const { pressed } = steering, now = steering.action(game.sent ?? game.hello.controls.rest);
  if ((pressed.size || moved) && game.driver !== "person") drive("person");
  if (JSON.stringify(now) !== JSON.stringify(game.sent)) {
    game.sent = now;
    send({ do: "act", action: now });
  }
  if (pressed.size && !game.playing && !game.ended) send({ do: "play" });
}

function drive(driver) {
  game.driver = driver;
  send({ do: "change", driver });
  showDriver();
}

function sendSettings() {
  $("speed-shown").textContent = `${$("speed").value} steps/s`;
  $("temperature-shown").textContent = Number($("temperature").value).toFixed(1);
  const seed = Math.min(2147483647, Math.max(0, Math.floor(Number($("seed").value) || 0)));
  const temperature = $("temperature").disabled ? 1 : Number($("temperature").value);
  send({ do: "change", speed: Number($("speed").value), noise: $("noise").value, seed, temperature });
}

function toggle() {
  if (game.ended) return send({ do: "reset" });
  send({ do: game.playing ? "pause" : "play" });
}

function branch() {
  $("branch").disabled = true;
  const model = Number($("fan-model").value), same = model === Number($("code-model").value);
  send({ do: "futures", at: game.shown, model, count: Number($("count").value), horizon: Number($("horizon").value), actions: $("actions").value,
    codes: same && codes.at === game.shown ? codes.changes : {} });
}

const codes = new Codes($("tiles"), $("code"), $("code-label"), () => requestCodes());
function requestCodes() {
  send({ do: "codes", at: codes.at, model: Number($("code-model").value), codes: codes.changes });
}
$("show-codes").onclick = () => {
  if (game.playing) send({ do: "pause" });
  codes.forget();
  codes.at = game.shown;
  requestCodes();
};
$("forget-codes").onclick = () => { codes.forget(); requestCodes(); };
$("dream-codes").onclick = () => send({ do: "dream-on", model: Number($("code-model").value), codes: codes.changes });
$("code-model").onchange = () => $("show-codes").click();

$("play").onclick = toggle;
$("step").onclick = () => send({ do: "step" });
$("again").onclick = () => send({ do: "reset" });
$("redream").onclick = () => send({ do: "begin-dream" });
$("branch").onclick = branch;
for (const id of ["speed", "temperature"]) $(id).oninput = sendSettings;
for (const id of ["noise", "seed"]) $(id).onchange = sendSettings;
$("driver").onclick = ({ target }) => { if (target.dataset.driver) drive(target.dataset.driver); };
let looking = false;
$("timeline").oninput = () => {
  if (looking) return;
  looking = true;  // at most one request for each picture of the screen
  requestAnimationFrame(() => { looking = false; send({ do: "look", at: Number($("timeline").value) }); });
};

const SHORTCUTS = { " ": toggle, ".": () => $("step").click(), n: () => $("again").click(), r: () => $("redream").click(), b: branch, g: () => drive(game.driver === "agent" ? "person" : "agent") };
addEventListener("keydown", (event) => {
  const field = event.target.closest?.("input, select, #tiles");
  if (event.ctrlKey || event.metaKey || event.altKey || field) return;
  const word = meaning(event.key), shortcut = SHORTCUTS[event.key.toLowerCase()];
  if (word !== null) { event.preventDefault(); if (!event.repeat) steering.press(word, true); }
  else if (shortcut && !(event.key === " " && event.target.closest?.("button, a"))) { event.preventDefault(); if (!event.repeat) shortcut(); }
});
// A button that was clicked does not keep the keys: Space goes on to play and pause. Tab reaches buttons as always.
addEventListener("mousedown", (event) => { if (event.target.closest?.("button")) event.preventDefault(); });
addEventListener("keyup", (event) => { const word = meaning(event.key); if (word !== null) steering.press(word, false); });
addEventListener("blur", () => steering.release());
document.addEventListener("visibilitychange", () => { if (document.hidden && game.playing) send({ do: "pause" }); });

// ---- what the session answers ----

function showFrame(message) {
  const { at, last, pictures, blobs, vectors } = message;
  if (last < game.last || (at === 0 && last === 0)) game.log.clear();
  const known = game.log.get(at);
  if (!known?.drawn || message.drawn) game.log.set(at, message);
  const late = message.playing && at < game.shown && at < last;
  Object.assign(game, { last, playing: message.playing, driver: message.driver });
  if (message.drawn) game.drawnAt = at;
  pictures.forEach(({ what, model }, index) => {
    const screen = screens[model === undefined ? what : `${what} ${model}`];
    const note = what === "dream" ? dreamNote(message) : "";
    if (screen && !(late && what === "real")) screen.show(blobs[index], note);
  });
  if (!late) {
    game.shown = at;
    game.ended = at === last ? message.ended : "";
    if (!message.drawn) waitForPictures();
    if (vectors.real && !entryCharts.length) buildEntries(vectors.real.length);
    showState(message);
  }
  showCurves();
  delete message.blobs;  // the log keeps the numbers
}

function dreamNote({ dreamt_for, at }) {
  return dreamt_for ? `${dreamt_for} steps without looking` : at < game.hello.context ? `looks at ${game.hello.context} frames first` : "begins here";
}

/** The models have not drawn this moment yet: say from when their pictures are. */
function waitForPictures() {
  for (const [key, screen] of Object.entries(screens)) {
    if (key !== "real") screen.note.textContent = `drawn at step ${game.drawnAt}`;
  }
}

function showState(message) {
  const { at, first, last, playing, ended, plan } = message;
  $("play").textContent = playing ? "Pause" : game.ended ? "New episode" : "Play";
  $("step").disabled = Boolean(game.ended);
  Object.assign($("timeline"), { min: first, max: last, disabled: last === first });
  $("timeline").value = at;
  $("when").textContent = `step ${at} of ${last}`;
  const how = { terminated: "The episode ended.", truncated: "The time limit ended the episode." }[ended] ?? "";
  $("episode").textContent = `return ${short(message.return)}. ${how}`;
  $("plan").hidden = message.driver !== "plan";
  $("plan").textContent = `The plan drives: ${plan} steps left.`;
  showDriver();
}

function showDriver() {
  for (const button of $("driver").children) button.setAttribute("aria-pressed", String(button.dataset.driver === game.driver));
}

function showCurves() {
  const from = Math.max(0, game.last - WINDOW + 1);
  const entries = Array.from({ length: game.last - from + 1 }, (_, index) => game.log.get(from + index) ?? null);
  const dreamt = game.log.get(game.shown)?.dreamt_for;
  const began = dreamt ? game.shown - dreamt - from : null;
  for (const { chart, read } of [...charts, ...entryCharts]) {
    const rows = entries.map((entry) => (entry ? read(entry) : null));
    const series = chart.lines.map((_, line) => rows.map((row) => row?.[line] ?? null));
    chart.draw(series, game.shown - from, began !== null && began >= 0 ? began : null);
  }
}

async function showBranch(message) {
  $("branch").disabled = false;
  await showFan($("fan"), message, message.at === game.shown ? screens.real?.canvas : null, (future) => send({ do: "follow", future }));
}

async function showCodes(message) {
  codes.at = message.at;
  const model = game.hello.models[message.model];
  codes.show(message.values, model.codes);
  const changed = Object.keys(message.changed).length > 0;
  $("forget-codes").disabled = !changed;
  $("dream-codes").disabled = !changed || message.at !== game.last;
  if (!codeScreens.length && message.blobs.length) {
    codeScreens = [new Screen($("code-screens"), "as inferred", "seen"), new Screen($("code-screens"), "changed", "dreamt")];
  }
  const { numbers = {} } = message;
  const note = (side) => Object.entries(numbers).map(([name, pair]) => `${name} ${short(pair[side])}`).join(", ");
  message.blobs.forEach((bytes, side) => codeScreens[side].show(bytes, note(side)));
  if (message.entries) {
    const [before, after] = message.entries;
    const lines = before.map((value, entry) => {
      const line = document.createElement("div");
      line.className = "number";
      line.textContent = `entry ${entry}: ${short(value)}, changed ${short(after[entry])}`;
      return line;
    });
    $("code-screens").replaceChildren(...lines);
  }
}
