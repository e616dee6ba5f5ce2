// What an upload asks before it starts: the slide of loose files.
//
// A modal dialog of the browser, which keeps the focus inside. Invariant: closing it in any way uploads nothing.

import { el, focusedIn, format } from "./core.js";

/** Longest name of a slide, characters; a key of S3 takes 1,024 bytes with the file's name. */
const MAX_NAME = 200;

function twoDigits(value) {
  return String(value).padStart(2, "0");
}

function nameByTime(now) {
  const day = [now.getFullYear(), twoDigits(now.getMonth() + 1), twoDigits(now.getDate())].join("-");
  return `slide-${day}-${twoDigits(now.getHours())}${twoDigits(now.getMinutes())}`;
}

/** What is wrong with a slide's name, or an empty text. */
export function complaint(name) {
  if (name === "") return "A slide needs a name.";
  if (name.length > MAX_NAME) return `A name may have ${MAX_NAME} characters; this one has ${name.length}.`;
  if (/\p{Cc}/u.test(name)) return "A name may hold no line breaks or other control characters.";
  if (name.startsWith("/") || name.includes("//")) return "Parts of a name are separated by one “/”, and none is empty.";
  if (name.split("/").some((part) => part === "." || part === "..")) return "“.” and “..” are not names.";
  return "";
}

/** Shows a dialog; resolves with what `build`'s `close(value)` was given, or `null`. */
function ask(title, build) {
  return new Promise((resolve) => {
    const before = focusedIn(document);
    let result = null;
    const close = (value) => {
      result = value;
      dialog.close();
    };
    const heading = el("h2", { id: "question" }, title);
    const dialog = el("dialog", { class: "dialog", "aria-labelledby": "question", "data-test": "question" }, heading, build(close));
    dialog.addEventListener("close", () => {
      dialog.remove();
      before?.focus();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Asks for the slide of `count` loose files, offering `offer`; `null` if they are not to be uploaded. */
export function askSlideName(count, offer) {
  return ask(`Which slide ${count === 1 ? "is this image" : `are these ${format.count(count)} images`} of?`, (close) => {
    const input = el("input", { type: "text", id: "slide-name", value: offer || nameByTime(new Date()), "aria-describedby": "slide-complaint", autocomplete: "off", spellcheck: "false", "data-test": "slide-name" });
    const wrong = el("p", { id: "slide-complaint", class: "complaint", role: "alert" });
    const take = () => {
      const name = input.value.trim().replace(/\/+$/, "");
      wrong.textContent = complaint(name);
      if (wrong.textContent === "") close(name);
      else input.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      take();
    });
    setTimeout(() => input.select(), 0);
    return [
      el("p", {}, "Files without a folder need a slide. Images are uploaded to a folder of this name; an existing slide gets them in addition."),
      el("label", { for: "slide-name" }, "Slide"),
      input,
      wrong,
      el("div", { class: "toolbar dialog-actions" },
        el("button", { class: "button primary", type: "button", onclick: take, "data-test": "slide-name-ok" }, "Upload"),
        el("button", { class: "button", type: "button", onclick: () => close(null) }, "Do not upload")),
    ];
  });
}
