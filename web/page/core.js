// What every view is built of, in one import.
//
// Re-exports only. Invariant: views import from here and from files of their own, so that a part of the core can move
// without any view being changed.

export { el, svg, icon, stateBox, skeleton, copyButton, focusedIn, replaceChildren } from "./dom.js";
export { api, ApiError, connection } from "./api.js";
export { links } from "./links.js";
export { format, nameOf, slideOf } from "./format.js";
export { DECISIONS, decisionOf, decisionBadge } from "./decision.js";
