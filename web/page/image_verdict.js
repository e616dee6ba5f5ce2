// A verdict on the image that is looked at: confirm, correct, take back; also on one that the model was sure of.
//
// Sends one at a time and waits for the answer. Invariant: what could not be saved is said, and the controls stay.

import { api, el, icon, replaceChildren } from "./core.js";
import { askReviewer, storedReviewer } from "./review_sheets.js";

export class VerdictControls {
  /** `changed()` is called after a verdict or an undo was saved; `isSeen()` says whether the image is in sight. */
  constructor(context, { changed, isSeen }) {
    this.context = context;
    this.changed = changed;
    this.isSeen = isSeen;
    this.record = null;
    this.verdict = null;
    this.isBusy = false;
    this.reviewer = context.settings.reviewer ?? storedReviewer();
    this.buttons = el("div", { class: "toolbar", role: "group", "aria-label": "Your verdict" });
    this.note = el("input", { type: "text", id: "verdict-note", maxlength: 1000, placeholder: "Note (may stay empty)", "aria-label": "Note on the verdict", "data-test": "verdict-note" });
    this.message = el("p", { class: "hint", role: "alert", hidden: true, "data-test": "verdict-message" });
    this.element = el("div", { class: "stack", "data-test": "verdict-controls" }, this.message, this.buttons, this.note);
    this.drawn = "";
  }

  /** Draws the controls for the record of the chosen stage; the same again keeps the buttons and the focus. */
  draw(record, verdict) {
    Object.assign(this, { record, verdict });
    const isJudged = record?.status === "classified";
    this.element.hidden = !isJudged;
    if (!isJudged) return;
    const state = JSON.stringify([record.result_id, Boolean(verdict)]);
    if (state === this.drawn) return;
    this.drawn = state;
    this.note.value = "";
    this.#say(null);
    const hadFocus = this.buttons.contains(document.activeElement);
    const button = (name, words, key, run, more = "") => el("button", { class: `button ${more}`, type: "button", "aria-keyshortcuts": key, "data-test": name, onclick: run }, el("span", {}, words), key ? el("kbd", { "aria-hidden": "true" }, key) : null);
    replaceChildren(
      this.buttons,
      button("verdict-confirm", `Confirm ${record.label}`, "C", () => this.confirm()),
      this.#labels().map((label, index) => (label === record.label ? null : button(`verdict-correct-${label}`, `It is ${label}`, index < 9 ? index + 1 : null, () => this.correct(label)))),
      verdict ? button("verdict-undo", "Take the verdict back", "U", () => this.undo()) : null,
    );
    if (hadFocus) this.buttons.querySelector("button")?.focus({ preventScroll: true });
  }

  /** Does what a key asks for; `false` if it is none of these. */
  key(key) {
    if (!this.record || this.element.hidden) return false;
    const letter = key.toLowerCase();
    const label = /^[1-9]$/.test(key) ? this.#labels()[key - 1] : undefined;
    if (letter === "c") this.confirm();
    else if (letter === "u" && this.verdict) this.undo();
    else if (label !== undefined) this.correct(label);
    else return false;
    return true;
  }

  confirm() { return this.#send("confirm", this.record.label); }

  correct(label) { return this.#send(label === this.record.label ? "confirm" : "correct", label); }

  undo() {
    const { key } = this.record.image;
    return this.#save(
      (reviewer) => api.post("/api/reviews/undo", { key, reviewer }),
      "The verdict is taken back.",
    );
  }

  #send(action, label) {
    if (!this.isSeen()) {
      this.#say("The image is not in sight yet: a verdict has to wait for it.");
      return undefined;
    }
    const note = this.note.value.trim();
    const body = { key: this.record.image.key, stage: this.record.stage, result_id: this.record.result_id, action, ...(action === "correct" ? { label } : {}), ...(note ? { note } : {}) };
    return this.#save((reviewer) => api.post("/api/reviews", { ...body, reviewer }), `Saved: ${action === "confirm" ? "confirmed" : "corrected to"} ${label}.`);
  }

  async #save(post, words) {
    if (this.isBusy) return;
    this.isBusy = true;
    try {
      this.reviewer ??= await askReviewer(null);
      if (!this.reviewer) return;
      await post(this.reviewer);
      this.#say(null);
      this.context.announce(words);
      await this.changed();
    } catch (error) {
      if (this.context.signal.aborted) return;
      this.#say(`Not saved: ${error.detail ?? error.message}`);
    } finally {
      this.isBusy = false;
    }
  }

  #labels() {
    const { labels } = this.context.settings;
    return [...labels, ...Object.keys(this.record.probabilities ?? {}).filter((label) => !labels.includes(label)).sort()];
  }

  #say(words) {
    this.message.hidden = words === null;
    replaceChildren(this.message, words === null ? null : [icon("warning"), el("span", {}, words)]);
  }
}
