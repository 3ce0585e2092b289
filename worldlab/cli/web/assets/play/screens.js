// The pictures of a moment: real, reconstruction, dream.

/** Draw PNG bytes on a canvas in their own size; the style enlarges them with square pixels. */
export async function paint(canvas, bytes) {
  const picture = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.style.aspectRatio = `${picture.width} / ${picture.height}`;
    canvas.classList.toggle("smooth", picture.width > 128);
  }
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
}

/** A titled canvas. */
export class Screen {
  constructor(parent, title, kind) {
    this.figure = document.createElement("figure");
    this.figure.className = `screen ${kind}`;
    this.caption = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = title;
    this.note = document.createElement("span");
    this.note.className = "soft";
    this.caption.append(name, " ", this.note);
    this.canvas = document.createElement("canvas");
    this.canvas.width = this.canvas.height = 64;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", title);
    this.figure.append(this.canvas, this.caption);
    parent.append(this.figure);
  }

  async show(bytes, note = "") {
    this.note.textContent = note;
    await paint(this.canvas, bytes);
  }
}

/** The screens of a game: { key: Screen }, key "real", "reconstruction 0", "dream 0", ... */
export function buildScreens(parent, { models, shows, rendered }) {
  const screens = {};
  const two = models.length > 1;
  if (shows === "pictures" || rendered) screens.real = new Screen(parent, "real", "real");
  models.forEach((model, index) => {
    if (shows !== "pictures" || !model.draws) return;
    const suffix = two ? ` ${"AB"[index]}` : "";
    screens[`reconstruction ${index}`] = new Screen(parent, (model.by === "probe" ? "probe" : "reconstruction") + suffix, "seen");
    screens[`dream ${index}`] = new Screen(parent, "dream" + suffix, "dreamt");
  });
  parent.classList.toggle("two", two);
  parent.classList.toggle("alone", Object.keys(screens).length === 1);
  return screens;
}
