// A live region has to be there before its words are; while they still come, screen readers wait.
element.setAttribute("role", "status");
element.setAttribute("aria-live", "polite");
element.setAttribute("aria-label", "Answer");
const busy = () => element.setAttribute("aria-busy", String(element.querySelector("[data-busy]") !== null));
const changes = { childList: true, subtree: true, attributes: true, attributeFilter: ["data-busy"] };
new MutationObserver(busy).observe(element, changes); // gradio changes elements in place where it can
busy();
