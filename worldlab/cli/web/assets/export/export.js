// Shows one step of every future at a time; without this script the strips show all.
for (const moment of document.querySelectorAll(".moment")) {
  const frames = [...moment.querySelectorAll(".frame")];
  if (!frames.length) continue;
  const scrub = moment.querySelector(".scrub"), slider = scrub.querySelector("input"), shown = scrub.querySelector("span");
  const show = (step) => {
    shown.textContent = step;
    for (const frame of frames) {
      const count = Number(frame.dataset.frames), at = Math.min(step, count - 1);
      frame.style.backgroundPosition = `${count > 1 ? (100 * at) / (count - 1) : 0}% 0`;
    }
  };
  for (const frame of frames) {
    frame.hidden = false;
    frame.style.aspectRatio = frame.dataset.aspect;
    frame.style.backgroundImage = `url("${frame.dataset.file}")`;
    frame.style.backgroundSize = `${100 * frame.dataset.frames}% 100%`;
  }
  scrub.hidden = false;
  slider.oninput = () => show(Number(slider.value));
  show(0);
}
