"use strict";
/* Sorting: a click or Enter on a heading; empty cells stay at the end in both directions. */
document.querySelectorAll("th button").forEach(function (button) {
  button.addEventListener("click", function () {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending", at = head.cellIndex;
    const key = function (row) {
      const value = row.cells[at].dataset.v;
      return value === undefined || value === "" ? null : isNaN(value) ? value : Number(value);
    };
    const rows = Array.from(body.rows).sort(function (a, b) {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null);
      const order = typeof x === "number" && typeof y === "number"
        ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
      return up ? order : -order;
    });
    body.append.apply(body, rows);
    table.querySelectorAll("th[aria-sort]").forEach(function (th) { th.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
});
/* Filtering a long table by any word of a row. */
document.querySelectorAll("input[data-filters]").forEach(function (input) {
  const rows = Array.from(document.getElementById(input.dataset.filters).tBodies[0].rows);
  input.addEventListener("input", function () {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach(function (row) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(function (word) { return text.includes(word); });
    });
  });
});
/* Columns that start folded: every bench of the first table. */
document.querySelectorAll("button[data-unfolds]").forEach(function (button) {
  const table = document.getElementById(button.dataset.unfolds);
  button.hidden = false;
  button.addEventListener("click", function () {
    const open = table.classList.toggle("unfolded");
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "Hide further columns and parameters" : "Show all columns and parameters";
  });
});
/* Light or dark: as the system says, until the reader presses the button. */
(function () {
  const root = document.documentElement, button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const set = function (dark) {
    root.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light page" : "Dark page";
  };
  button.hidden = false;
  button.addEventListener("click", function () { set(root.dataset.theme !== "dark"); });
  system.addEventListener("change", function () { set(system.matches); });
  set(system.matches);
})();
/* Paper cannot be unfolded: everything folded is open while it prints. */
(function () {
  let opened = [];
  window.addEventListener("beforeprint", function () {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach(function (details) { details.open = true; });
  });
  window.addEventListener("afterprint", function () {
    opened.forEach(function (details) { details.open = false; });
  });
})();
