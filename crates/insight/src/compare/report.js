"use strict";
const classes = { c: "cached", m: "atmost", r: "runs" };
const rows = [...document.querySelectorAll("tr[data-edit]")];
function choose(row) {
  for (const other of rows) other.classList.toggle("chosen", other === row);
  const edit = Number(row.dataset.edit);
  for (const step of document.querySelectorAll(".step[data-effects]")) {
    step.classList.remove("cached", "atmost", "runs");
    const effect = classes[step.dataset.effects[edit]];
    if (effect) step.classList.add(effect);
  }
}
for (const row of rows) {
  row.addEventListener("click", () => choose(row));
  row.addEventListener("focus", () => choose(row));
}
if (rows.length > 0) choose(rows[0]);
