// The two sheets of the review queue: who reviews, and which key does what.
//
// Keeps the reviewer's name in this browser only; it goes to the server with each verdict. Invariant: a sheet gives the
// focus back to what had it.

import { el, focusedIn } from "./core.js";

const STORAGE = "giemsa.reviewer";

/** Longest name, characters. */
const LONGEST_NAME = 100;

/** The name given before in this browser, or `null`. */
export function storedReviewer() {
  try {
    return localStorage.getItem(STORAGE) || null;
  } catch {
    return null;
  }
}

function open(dialog) {
  const before = focusedIn(document);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    dialog.remove();
    // This event comes a moment after the dialog is gone: whoever was quick has a field already.
    if (before?.isConnected && document.activeElement === document.body) before.focus({ preventScroll: true });
    resolve(dialog.returnValue);
  }));
}

/** Asks for the reviewer's name; `null` if none was given. */
export async function askReviewer(before) {
  const name = el("input", { type: "text", id: "reviewer-name", autocomplete: "name", maxlength: LONGEST_NAME, required: true, value: before ?? "", "data-test": "reviewer-name" });
  const dialog = el(
    "dialog",
    { class: "sheet", "aria-labelledby": "reviewer-title", "data-test": "reviewer-sheet" },
    el(
      "form",
      { onsubmit: (event) => { event.preventDefault(); if (name.value.trim()) dialog.close(name.value.trim()); } },
      el("h2", { id: "reviewer-title" }, "Who is reviewing?"),
      el("p", { class: "quiet" }, "Every verdict is stored with this name and the time. It is kept in this browser until you change it."),
      el("label", { for: "reviewer-name" }, "Name or initials"),
      name,
      el("div", { class: "toolbar" }, el("button", { class: "button primary", type: "submit", "data-test": "reviewer-save" }, "Start"), el("button", { class: "button", type: "button", onclick: () => dialog.close("") }, "Cancel")),
    ),
  );
  const given = await open(dialog);
  if (!given) return null;
  try {
    localStorage.setItem(STORAGE, given);
  } catch {
    // Storage is switched off: the name holds for this page.
  }
  return given;
}

/** Shows every key. */
export function helpSheet(labels) {
  const keys = [
    ["Enter or C", "confirm the answer"],
    ...labels.slice(0, 9).map((label, index) => [String(index + 1), `it is ${label}`]),
    ["S", "skip: look at it at the end"],
    ["U or Ctrl+Z", "undo the last verdict; again for the one before"],
    ["N", "write a note; Esc goes back to the image"],
    ["+ − 0", "zoom in, out, whole image (image focused)"],
    ["?", "this list"],
  ];
  const dialog = el(
    "dialog",
    { class: "sheet", "aria-labelledby": "keys-title", "data-test": "help-sheet" },
    el("div", {},
      el("h2", { id: "keys-title" }, "Keys"),
      el("dl", { class: "keys" }, keys.map(([key, words]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, words)])),
      el("p", { class: "quiet" }, "A verdict never changes the model's answer: both are kept. A key that is held down judges only one image."),
      el("div", {}, el("button", { class: "button primary", type: "button", onclick: () => dialog.close("") }, "Close"))),
  );
  return open(dialog);
}
