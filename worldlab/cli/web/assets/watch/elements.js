// Elements by name, attributes and children. Text is always text: nothing that a run wrote is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null && child !== ""));
  return node;
}

/** An HTML element. Functions among the attributes are listeners. */
export const h = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

/** An SVG element. */
export const s = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

/** Set a text, if it is another one: a screen reader says again what is set again. */
export function setText(node, text) { if (node.textContent !== text) node.textContent = text; }

/** Draw, and give the focus back to the link that had it if it was drawn anew. */
export function keepFocus(draw) {
  const before = document.activeElement, address = before?.getAttribute("href"), kind = before?.className;
  draw();
  if (!address || before.isConnected) return;
  const again = [...document.querySelectorAll(`a[href="${CSS.escape(address)}"]`)];
  (again.find((link) => link.className.split(" ")[0] === kind.split(" ")[0]) ?? again[0])?.focus({ preventScroll: true });
}

/** Give a parent these children in this order, and move as few of them as possible. */
export function arrange(parent, children) {
  const kept = new Set(children);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  children.forEach((child, index) => { if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null); });
}
