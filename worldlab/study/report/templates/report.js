"use strict";
// Optional: the page works without scripts. This sorts tables and hides methods.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[at].dataset.sort ?? row.cells[at].textContent;
      const known = (row) => key(row) !== "";
      const less = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      const number = (a, b) => Number(key(a)) - Number(key(b));
      const order = head.dataset.kind === "number" ? number : less;
      const rows = [...body.rows];
      const sorted = rows.filter(known).sort((a, b) => (down ? -1 : 1) * order(a, b));
      body.append(...sorted, ...rows.filter((row) => !known(row)));
    });
  });
}
for (const item of document.querySelectorAll(".legend li")) {
  const button = document.createElement("button");
  button.append(...item.childNodes);
  item.append(button);
  button.setAttribute("aria-pressed", "true");
  button.title = "show or hide";
  button.addEventListener("click", () => {
    const off = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!off));
    for (const drawn of item.closest("section").querySelectorAll(`figure svg g.${item.dataset.series}`)) {
      drawn.classList.toggle("off", off);
    }
  });
}
