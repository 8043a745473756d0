// A live region has to be there before its words are; while they still come, screen readers wait.
element.setAttribute("role", "status");
element.setAttribute("aria-live", "polite");
element.setAttribute("aria-label", "Answer");
const busy = () => element.setAttribute("aria-busy", String(element.querySelector("[data-busy]") !== null));
new MutationObserver(busy).observe(element, { childList: true, subtree: true });
busy();
