// Taking the image that is looked at out of what counts, and bringing it back.
//
// Sends one at a time and waits for the answer. Invariant: nothing is withdrawn without a reason; what could not be saved
// is said, and the reason stays in its field.

import { api, el, format, icon, replaceChildren } from "./core.js";
import { panel } from "./answer.js";
import { askReviewer, storedReviewer } from "./review_sheets.js";

export class WithdrawalControls {
  /** `changed()` is called after a withdrawal or restoration was saved. */
  constructor(context, { changed }) {
    this.context = context;
    this.changed = changed;
    this.reviewer = context.settings.reviewer ?? storedReviewer();
    this.record = null;
    this.isBusy = false;
    this.drawn = "";
    this.reason = el("input", { type: "text", id: "withdrawal-reason", maxlength: 500, placeholder: "Why", "aria-label": "Reason", "data-test": "withdrawal-reason" });
    this.message = el("p", { class: "hint", role: "alert", hidden: true, "data-test": "withdrawal-message" });
    this.body = el("div", { class: "panel-body stack" });
    this.element = panel("Does it count?", "panel-withdrawal", this.body);
  }

  /** Draws the state of the record and what can be done; the same again keeps the field and the focus. */
  draw(record, withdrawals) {
    this.record = record;
    const state = JSON.stringify([record.result_id, record.withdrawn ?? null, withdrawals]);
    if (state === this.drawn) return;
    this.drawn = state;
    this.reason.value = "";
    this.#say(null);
    const { withdrawn } = record;
    const list = [...withdrawals].reverse();
    replaceChildren(
      this.body,
      withdrawn
        ? el("p", { class: "verdict-line", "data-test": "withdrawn" }, icon("withdrawn"), el("span", {}, el("strong", {}, "Withdrawn"), ` by ${withdrawn.by}, ${format.time(withdrawn.at)}: ${withdrawn.reason}. It is in no figure, list or queue of any stage.`))
        : el("p", { class: "quiet" }, "It counts in the figure of its slide."),
      this.message,
      el("div", { class: "toolbar" }, this.reason, withdrawn
        ? el("button", { class: "button", type: "button", "data-test": "restore", onclick: () => this.#save("/api/withdrawals/restore", {}, "The image counts again.") }, "Bring it back")
        : el("button", { class: "button", type: "button", "data-test": "withdraw", title: "e.g. moved to another slide, deleted, out of focus; nothing is deleted by this", onclick: () => this.#save("/api/withdrawals", { stage: this.record.stage, result_id: this.record.result_id }, "The image is withdrawn.") }, "Withdraw this image")),
      list.length > 0
        ? el("ul", { class: "rows" }, list.map((entry) => el(
            "li",
            { "data-test": "withdrawal-entry" },
            el("div", {}, el("strong", {}, entry.by), entry.action === "withdraw" ? " withdrew it: " : " brought it back: ", entry.reason),
            el("div", { class: "quiet small-text" }, [format.time(entry.at), this.#isOfOther(entry) ? "another version of the image" : null].filter(Boolean).join(" · ")),
          )))
        : null,
    );
  }

  #isOfOther(entry) {
    const { version_id: version, etag } = this.record.image;
    return entry.object_version !== (version ?? etag);
  }

  async #save(path, more, words) {
    if (this.isBusy) return;
    const reason = this.reason.value.trim();
    if (!reason) {
      this.#say("Say why: the reason stays in the image's history.");
      this.reason.focus();
      return;
    }
    this.isBusy = true;
    try {
      this.reviewer ??= storedReviewer() ?? await askReviewer(null);
      if (!this.reviewer) return;
      await api.post(path, { key: this.record.image.key, ...more, reason, reviewer: this.reviewer });
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

  #say(words) {
    this.message.hidden = words === null;
    replaceChildren(this.message, words === null ? null : [icon("warning"), el("span", {}, words)]);
  }
}
