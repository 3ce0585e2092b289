// From keys, buttons and sliders to an action.

/** The word that each key stands for; letters are lower case. */
export const WORDS = {
  arrowleft: "left", a: "left", arrowright: "right", d: "right",
  arrowup: "up", w: "up", arrowdown: "down", s: "down", f: "fire",
};

/** The word of a key, or its digit as a number; null for a key that steers nothing. */
export function meaning(key) {
  const lower = key.toLowerCase();
  if (Object.hasOwn(WORDS, lower)) return WORDS[lower];
  return /^[0-9]$/.test(lower) ? Number(lower) : null;
}

/** The index of the choice that fits the pressed words best: the one that needs most of them. Without a fit: null. */
export function choose(choices, pressed) {
  let best = null, most = -1;
  choices.forEach(({ needs }, index) => {
    if (needs.length > most && needs.every((word) => pressed.has(word))) { best = index; most = needs.length; }
  });
  return best;
}

/** The action for what is pressed. Among choices a pressed digit counts most; what fits nothing keeps the last action.
    Axes that no key pushes have the value of their slider. */
export function action(controls, pressed, sliders, last) {
  if (controls.axes.length) {
    return controls.axes.map(({ less, more, low, high }, index) => {
      const down = Boolean(less) && pressed.has(less), up = Boolean(more) && pressed.has(more);
      return down === up ? sliders[index] : up ? high : low;
    });
  }
  const digits = [...pressed].filter((one) => typeof one === "number" && one < controls.choices.length);
  return digits.length ? digits[digits.length - 1] : choose(controls.choices, pressed) ?? last;
}

/** What each key does, for the page: [[key, what]]. */
export function legend(controls) {
  const arrows = { left: "←", right: "→", up: "↑", down: "↓", fire: "F" };
  if (controls.axes.length) {
    return controls.axes.flatMap(({ name, less, more }) => [
      ...(less ? [[arrows[less], `${name} −`]] : []), ...(more ? [[arrows[more], `${name} +`]] : [])]);
  }
  return controls.choices.map(({ name, needs }, index) => {
    const known = needs.length && needs.every((word) => word in arrows);
    return [known ? needs.map((word) => arrows[word]).join("") : String(index), name];
  });
}
