// The page of `worldlab watch`: the list of runs at "#", one run at "#run-NUMBER".

import { connect } from "/socket.js";
import { Details } from "./details.js";
import { keepFocus, setText } from "./elements.js";
import { drawOverview, drawTimes } from "./overview.js";
import { Store } from "./store.js";

const store = new Store(), $ = (id) => document.getElementById(id);
let details = null, due = false, heard = 0;

const settings = () => ({ find: $("find").value.trim(), sort: $("sort").value, cells: $("cells").checked });
const now = () => store.about.now + (performance.now() - heard) / 1000;

/** Draw what changed, at most once a frame. */
function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    setText($("folder"), store.about.folder);
    const lost = store.run && heard && !store.rows.has(store.run.id) ? "This run is no longer there." : "";
    setText($("notice"), store.about.problem || lost);
    $("notice").hidden = !$("notice").textContent;
    keepFocus(() => { if (store.run) drawRun(); else drawOverview(store, settings()); });
  });
}

function drawRun() {
  const row = store.rows.get(store.run.id);
  if (row) details.draw(row, store.run, now());
}

const line = connect((message) => {
  if (message.type === "runs") heard = performance.now();
  if (store.apply(message)) draw();
}, (state, reason) => {
  $("state").className = state;
  $("state").textContent = { open: "live", closed: "not connected, trying again", ended: `ended: ${reason}` }[state];
  if (state === "open") tell();
});

/** Say to the server which run is shown, and whether anybody looks. */
function tell() {
  if (store.run) store.show(store.run.id);
  line.send({ run: store.run?.id ?? null, hidden: document.hidden });
}

/** Show what the address says. */
function go() {
  const [, number] = /^#run-(\d{1,9})$/.exec(location.hash) ?? [];
  store.show(number == null ? null : Number(number));
  $("overview").hidden = Boolean(store.run);
  $("details").hidden = !store.run;
  details = store.run ? new Details($("details")) : null;
  scrollTo(0, 0);
  tell();
  draw();
}

addEventListener("hashchange", go);
addEventListener("resize", () => details?.resize());
document.addEventListener("visibilitychange", () => { line.send({ hidden: document.hidden }); });
$("find").addEventListener("input", draw);
for (const id of ["sort", "cells"]) $(id).addEventListener("change", draw);
addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target.tagName !== "INPUT" && !store.run) { event.preventDefault(); $("find").focus(); }
  if (event.key === "Escape" && store.run && event.target.tagName !== "INPUT") location.hash = "";
});
setInterval(() => { if (!document.hidden && heard) store.run ? draw() : drawTimes(now()); }, 30_000);
go();
