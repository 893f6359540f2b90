"use strict";
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);
const names = new Map();
for (const name of document.querySelectorAll(".name[data-row]")) names.set(name.dataset.row, name);
const inputs = (name) => (name.dataset.inputs || "").split(" ").filter(Boolean);

function mark(row) {
  for (const marked of document.querySelectorAll(".here, .before, .after")) marked.classList.remove("here", "before", "after");
  if (row === undefined) return;
  for (const here of document.querySelectorAll(`.name[data-row="${row}"], tr[data-row="${row}"]`)) here.classList.add("here");
  const name = names.get(row);
  if (!name) return;
  for (const input of inputs(name)) names.get(input)?.classList.add("before");
  for (const other of names.values()) if (inputs(other).includes(row)) other.classList.add("after");
}

function show(element, x, y) {
  tip.textContent = element.dataset.tip;
  tip.hidden = false;
  const left = Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 4));
  const below = y + 18 + tip.offsetHeight < innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${Math.max(4, below ? y + 18 : y - tip.offsetHeight - 10)}px`;
}

for (const element of document.querySelectorAll("[title]")) {
  element.dataset.tip = element.title;
  element.setAttribute("aria-label", element.title);
  element.removeAttribute("title");
  element.addEventListener("pointermove", (event) => show(element, event.clientX, event.clientY));
  element.addEventListener("pointerleave", () => { tip.hidden = true; });
  element.addEventListener("focus", () => {
    const box = element.getBoundingClientRect();
    show(element, box.left, box.bottom);
    mark(element.dataset.row);
  });
  element.addEventListener("blur", () => { tip.hidden = true; mark(); });
}
for (const element of document.querySelectorAll("[data-row]")) {
  element.addEventListener("pointerenter", () => mark(element.dataset.row));
  element.addEventListener("pointerleave", () => mark());
}
