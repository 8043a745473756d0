// One object at a time is "on": the one under the pointer, else the one with the focus, else the pinned one.
// `element` is the panel's own; gradio replaces or changes what is inside it, so listeners stand on it and look at their target.
const number = (target) => target.closest?.("[data-object]")?.dataset.object;
let pinned = null;
let hovered = null;
let focused = null;

const all = () => [...element.querySelectorAll("[data-object]")];

function paint() {
  const objects = all();
  const known = (n) => n !== null && objects.some((o) => o.dataset.object === n);
  const chosen = [hovered, focused, pinned].find(known) ?? null;
  const first = element.querySelector(".ufo-closeup")?.dataset.object ?? null;
  for (const object of objects) {
    const own = object.dataset.object;
    object.classList.toggle("on", own === (object.matches(".ufo-closeup") ? (chosen ?? first) : chosen));
    if (object.hasAttribute("aria-pressed")) object.setAttribute("aria-pressed", String(own === pinned));
  }
  element.querySelector(".ufo-figure")?.classList.toggle("dimmed", chosen !== null);
}

function pin(n) {
  pinned = pinned === n ? null : n;
  paint();
}

element.addEventListener("pointerover", (event) => { hovered = number(event.target) ?? null; paint(); });
element.addEventListener("pointerleave", () => { hovered = null; paint(); });
element.addEventListener("focusin", (event) => { focused = number(event.target) ?? null; paint(); });
element.addEventListener("focusout", () => { focused = null; paint(); });
element.addEventListener("click", (event) => { const n = number(event.target); if (n !== undefined) pin(n); });
element.addEventListener("keydown", (event) => {
  const shape = event.target.closest?.("g[data-object]"); // buttons click by themselves
  if (shape && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); pin(shape.dataset.object); }
  if (event.key === "Escape") { pinned = null; event.target.blur?.(); paint(); }
});
new MutationObserver(() => {
  if (element.querySelector(".ufo-panel:not([data-seen])")) {
    element.querySelector(".ufo-panel").dataset.seen = "true";
    pinned = hovered = focused = null;
    paint();
  }
}).observe(element, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-seen"] });
paint();
