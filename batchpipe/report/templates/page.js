"use strict";
// A press on a column's name sorts its table; a second press turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const isFigure = head.classList.contains("figure");
    const key = (row) => isFigure
      ? parseFloat(row.cells[column].dataset.sort || "-Infinity")
      : row.cells[column].textContent.trim();
    const order = (a, b) => isFigure ? key(a) - key(b) : key(a).localeCompare(key(b));
    const rows = [...table.tBodies[0].rows].sort(order);
    table.tBodies[0].append(...(up ? rows : rows.reverse()));
  }));
}
// What is typed leaves the rows that have it.
for (const input of document.querySelectorAll("[data-filters]")) {
  const rows = [...document.getElementById(input.dataset.filters).tBodies[0].rows];
  const told = input.closest("p").querySelector("output");
  const all = told.textContent;
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    let left = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      left += row.hidden ? 0 : 1;
    }
    told.textContent = wanted ? `${left} of ${rows.length} rows shown` : all;
  });
}
// A line through all plots over time, and what they say there.
const group = document.getElementById("timelines");
if (group) {
  const { edges, layers } = JSON.parse(document.getElementById("curves").textContent);
  const said = group.querySelectorAll("[data-layer]");
  const lines = group.querySelectorAll(".cursor");
  const end = edges[edges.length - 1];
  const digits = Math.max(1, 2 - Math.floor(Math.log10(end / edges.length)));
  let at = -1;
  const show = (place) => {
    at = Math.max(0, Math.min(edges.length - 2, place));
    const x = `${100 * (edges[at] + edges[at + 1]) / 2 / end}%`;
    for (const line of lines) {
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      line.setAttribute("visibility", "visible");
    }
    said.forEach((each, layer) => { each.textContent = Math.round(layers[layer][at]).toLocaleString("en"); });
    document.getElementById("now").textContent = `${edges[at].toFixed(digits)} to ${edges[at + 1].toFixed(digits)} s`;
  };
  group.addEventListener("pointermove", (event) => {
    const box = group.querySelector(".canvas").getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    if (share >= 0 && share <= 1) show(Math.floor(share * (edges.length - 1)));
  });
  group.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    show(at + move);
  });
}
