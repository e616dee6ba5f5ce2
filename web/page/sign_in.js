// What is seen of signing in: the page before and after it, and who is signed in.
//
// Never shows data. Invariant: without a session nothing of a view is on the page, and there is one button that leads on.

import { el, stateBox } from "./dom.js";
import { session } from "./session.js";

/** Pause between two tries while the server is away, ms. */
const RETRY_MS = 2_000;

function box(main, kind, title, text, action) {
  main.replaceChildren(stateBox({ kind, title, text, action }));
}

/** What a tab shows that is signed out, until somebody presses its button. */
export function showSignedOut(main) {
  document.title = "Signed out · Giemsa";
  const run = () => session.signIn().catch((error) => showFailed(main, error));
  const button = el("button", { class: "button primary", type: "button", onclick: run }, "Sign in");
  box(main, "empty", "You are signed out", "Slides, images and verdicts are shown to those who have signed in.", button);
}

function showFailed(main, error) {
  document.title = "Sign-in · Giemsa";
  const text = [el("p", {}, error.message), error.hint ? el("p", {}, error.hint) : null];
  box(main, "error", "You are not signed in", text, { label: "Try again", run: () => location.reload() });
}

/** What is shown to somebody whom the server knows and refuses. */
export function showRefused(main, error) {
  document.title = "Refused · Giemsa";
  box(main, "error", "The server does not accept your sign-in", [
    el("p", {}, error.detail),
    el("p", {}, "Sign in as somebody else, or ask whoever runs this page."),
  ], { label: "Sign out", run: () => session.signOut() });
}

/** Gets through the sign-in; `false` if this page is not to be shown, because another is or because nobody is signed in. */
export async function enter(main) {
  for (;;) {
    try {
      const found = await session.begin();
      if (found === "signed-out") showSignedOut(main);
      if (found === "handed-over") {
        document.title = "Signed in · Giemsa";
        box(main, "empty", "You are signed in again", "Go back to the tab that you came from: it goes on. This one can be closed.");
        close();
      }
      return found === "open" || found === "signed-in";
    } catch (error) {
      if (!error.isAway) {
        showFailed(main, error);
        return false;
      }
      box(main, "error", "The server does not answer", "This page goes on by itself as soon as it does.");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** Asks whether what is on its way may be stopped. */
function mayStop(words) {
  const dialog = el(
    "dialog",
    { class: "sheet", "aria-labelledby": "sign-out-title", "data-test": "sign-out-sheet" },
    el("div", {},
      el("h2", { id: "sign-out-title" }, "Sign out?"),
      el("p", {}, words),
      el("div", { class: "toolbar" },
        el("button", { class: "button primary", type: "button", onclick: () => dialog.close("") }, "Stay"),
        el("button", { class: "button", type: "button", "data-test": "sign-out-anyway", onclick: () => dialog.close("yes") }, "Sign out"))),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    dialog.remove();
    resolve(dialog.returnValue === "yes");
  }));
}

/** The signed-in person's name and the button to sign out; nothing without an issuer. `leave()` stops and empties the page. */
export function person(name, { isBusy, leave }) {
  if (!session.isNeeded) return null;
  const button = el("button", { class: "button", type: "button", "data-test": "sign-out" }, "Sign out");
  button.addEventListener("click", async () => {
    if (isBusy() && !(await mayStop("Files are being uploaded. Signing out stops those that have not been stored yet."))) return;
    leave();
    await session.signOut();
  });
  return el("span", { class: "person" }, el("span", { class: "person-name", title: `Signed in as ${name}`, "data-test": "person" }, name), button);
}

/** The line that says that the session has ended, for the banner; `null` while it goes on. */
export function sessionLine() {
  if (session.problem === null) return null;
  const button = el("button", { class: "button small", type: "button", "data-test": "sign-in-again", onclick: () => session.signInAgain() }, "Sign in again");
  return { urgency: 2, parts: [`${session.problem} `, button] };
}
