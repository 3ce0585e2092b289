// Several futures of one moment, as strips that fan out from it.

import { element, path, range, short } from "./charts.js";

/** The index of the future with the largest predicted return; the first of equals. */
export function best(returns) {
  return returns.reduce((found, value, index) => (value > returns[found] ? index : found), 0);
}

/** The curve from the moment to the middle of strip `index` of `count`, in a box of 100 x 100. */
export function branchPath(index, count) {
  const y = (100 * (index + 0.5)) / count;
  return `M0 50C55 50 45 ${y.toFixed(1)} 100 ${y.toFixed(1)}`;
}

const make = (name, className, text = "") => {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
};

/** Draw a strip of frames that lie side by side in one picture, with gaps between them. */
async function paintStrip(canvas, bytes, width, count) {
  const picture = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const gap = Math.max(1, Math.round(width / 24));
  canvas.width = count * (width + gap) - gap;
  canvas.height = picture.height;
  canvas.style.aspectRatio = `${canvas.width} / ${canvas.height}`;
  const context = canvas.getContext("2d");
  for (let at = 0; at < count; at++) {
    context.drawImage(picture, at * width, 0, width, picture.height, at * (width + gap), 0, width, picture.height);
  }
  picture.close();
}

/** Show a "futures" message. start: a canvas with the moment's picture, or null. follow(index): drive a future. */
export async function showFan(parent, message, start, follow) {
  const { labels, returns, steps, size, entries, blobs, numbers } = message;
  const count = labels.length, winner = best(returns);
  const fan = make("div", "fan");
  const root = make("div", "root");
  if (start) {
    const copy = document.createElement("canvas");
    copy.width = start.width;
    copy.height = start.height;
    copy.getContext("2d").drawImage(start, 0, 0);
    copy.className = start.width > 128 ? "smooth" : "";
    copy.style.aspectRatio = `${start.width} / ${start.height}`;
    copy.setAttribute("role", "img");
    copy.setAttribute("aria-label", `the picture at step ${message.at}`);
    root.append(copy);
  }
  root.append(make("span", "soft number", `step ${message.at}`));
  const arms = element("svg", { class: "arms", viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  labels.forEach((_, index) => element("path", { class: `line c${index % 7}`, d: branchPath(index, count), "vector-effect": "non-scaling-stroke" }, arms));
  const list = make("ol", "futures");
  const painted = labels.map((label, index) => {
    const item = make("li", `future c${index % 7}`);
    const head = make("div", "head");
    const name = make("span", "name", label);
    const gain = make("span", "soft number", `return ${short(returns[index])}`);
    head.append(name, gain);
    if (index === winner && new Set(returns.map(short)).size > 1) head.append(make("span", "badge", "most predicted reward"));
    const drive = make("button", "", "Drive this");
    drive.setAttribute("aria-label", `Drive the real environment with the actions of ${label}`);
    drive.onclick = () => follow(index);
    head.append(drive);
    item.append(head);
    list.append(item);
    const band = make("div", "scroll band");
    band.tabIndex = 0;
    band.setAttribute("role", "region");
    band.setAttribute("aria-label", `${label}: steps ${steps.join(", ")} after the moment`);
    item.append(band);
    if (entries) return drawEntries(band, entries[index], entries);
    if (!blobs.length) return drawEntries(band, numbers.reward[index].map((value) => [value]), numbers.reward.map((row) => row.map((value) => [value])));
    const strip = make("canvas", "strip");
    strip.style.setProperty("--frames", steps.length);
    strip.setAttribute("role", "img");
    strip.setAttribute("aria-label", `${label}, ${steps.length} pictures of ${size[0]} by ${size[1]} pixels`);
    band.append(strip);
    return paintStrip(strip, blobs[index], size[0], steps.length);
  });
  fan.append(root, arms, list);
  await Promise.all(painted);
  parent.replaceChildren(fan);
}

/** Curves of the entries of one future [T][n], on the scale of all futures. */
function drawEntries(band, rows, all) {
  const count = Math.min(rows[0].length, 4);
  for (let entry = 0; entry < count; entry++) {
    const limits = range(all.map((future) => future.map((row) => row[entry])));
    const svg = element("svg", { class: "entries", viewBox: "0 0 300 40", preserveAspectRatio: "none", role: "img",
      "aria-label": `entry ${entry}: ${short(rows[0][entry])} to ${short(rows[rows.length - 1][entry])}` }, band);
    element("path", { class: "line", d: path(rows.map((row) => row[entry]), limits, rows.length, 300, 40), "vector-effect": "non-scaling-stroke" }, svg);
  }
}
