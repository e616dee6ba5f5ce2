// The review queue: one image after the other, the most suspicious first, and a verdict with one key.
//
// Never takes a verdict on an image that is not in sight. Invariant: the controls are made once and stay, so that the
// focus is never lost and a held key does nothing twice.

import { api, connection, el, format, icon, nameOf, replaceChildren, skeleton, stateBox } from "./core.js";
import { answerBlock, modelName, panel, probabilityBars, wordsOf } from "./answer.js";
import { askReviewer, helpSheet, storedReviewer } from "./review_sheets.js";
import { Agreement, doneList, goldenPanel, unsentPanel } from "./review_side.js";
import { ReviewQueue } from "./review_queue.js";
import { ReviewPicture } from "./review_picture.js";
import { fillHeight } from "./viewer.js";

/** Images that are loaded ahead. */
const AHEAD = 3;

/** Pause between two looks for new images, ms. */
const EVERY_MS = 5_000;

/** How long after a verdict agreement is asked anew, ms. */
const AGREEMENT_MS = 1_500;

/** Slides that are offered while one types. */
const SUGGESTED = 20;

/** Room below the image for the buttons, pixels. */
const BELOW_PX = 68;

export async function show(root, query, context) {
  await new Review(root, query, context).start();
}

class Review {
  constructor(root, query, context) {
    this.root = root;
    this.context = context;
    this.slide = query.get("slide");
    this.queue = new ReviewQueue({ stage: context.stage, slide: this.slide, signal: context.signal, signedIn: context.settings.reviewer_id ?? null });
    this.agreement = new Agreement({ stage: context.stage, signal: context.signal });
    this.reviewer = context.settings.reviewer ?? storedReviewer();
    this.drawnId = null;
  }

  async start() {
    const { signal, every, settings } = this.context;
    this.root.append(skeleton(8, "Loading the review queue"));
    this.picture = new ReviewPicture(signal, () => this.#enable());
    await Promise.all([this.picture.start(), this.queue.load()]);
    if (signal.aborted) return;
    this.labels = settings.labels;
    this.#build();
    this.queue.addEventListener("change", (/** @type {CustomEvent} */ { detail }) => this.#changed(detail.entry), { signal });
    this.queue.addEventListener("refused", (/** @type {CustomEvent} */ { detail }) => this.#refused(detail), { signal });
    document.addEventListener("keydown", (event) => this.#key(event), { signal });
    addEventListener("beforeunload", (event) => { if (this.queue.unsent.length > 0) event.preventDefault(); }, { signal });
    connection.addEventListener("change", () => { if (!connection.lost) this.queue.retry(); }, { signal });
    this.#changed();
    this.agreement.load();
    every(EVERY_MS, () => this.queue.poll());
    this.queue.countAhead().catch(() => { /* the looks for new images go on counting */ });
    if (!this.reviewer) this.#ask();
  }

  #build() {
    const { href, stage } = this.context;
    const action = (name, keys, words, run, more = "") => el("button", { class: `button ${more}`, type: "button", "data-test": `review-${name}`, "aria-keyshortcuts": keys.shortcut, onclick: run }, el("span", {}, words), el("kbd", { "aria-hidden": "true" }, keys.shown));
    this.progressText = el("p", { "data-test": "progress", class: "nowrap" });
    this.progressBar = el("div", {});
    this.slideField = el("input", { type: "search", id: "review-slide", placeholder: "all slides", value: this.slide ?? "", list: "review-slides", "data-test": "review-slide" });
    this.slideNames = el("datalist", { id: "review-slides" });
    this.slideField.addEventListener("input", () => this.#suggest());
    this.reviewerText = el("span", { "data-test": "reviewer" });
    this.card = el("section", { class: "review-card", tabindex: -1, "aria-label": "Image to review", "data-test": "review-card" });
    this.heading = el("h2", { "data-test": "review-name" });
    this.confirm = action("confirm", { shortcut: "Enter C", shown: "Enter" }, "Confirm", () => this.#decide("confirm"), "primary");
    this.corrections = el("div", { class: "toolbar", role: "group", "aria-label": "Correct to a label" });
    this.skipButton = action("skip", { shortcut: "S", shown: "S" }, "Skip", () => this.#skip());
    this.undoButton = action("undo", { shortcut: "U Control+Z", shown: "U" }, "Undo", () => this.#undo());
    this.noteButton = action("note", { shortcut: "N", shown: "N" }, "Note", () => this.#openNote());
    this.note = el("textarea", { id: "review-note", maxlength: 1000, "data-test": "review-note-text" });
    this.noteField = el("div", { class: "note-field", hidden: true }, el("label", { for: "review-note" }, "Note on this image, sent with its verdict (Esc goes back to the image)"), this.note);
    this.message = el("p", { class: "hint", role: "alert", hidden: true, "data-test": "review-message" });
    this.unsent = el("div");
    this.answer = el("div", { class: "panel-body" });
    this.doneBody = el("div");
    this.empty = el("div");
    replaceChildren(
      this.root,
      el("div", { class: "toolbar review-head" },
        el("h1", {}, "Review"),
        el("div", {}, this.progressText, el("div", { class: "progress", "aria-hidden": "true" }, this.progressBar)),
        el("form", { class: "field", onsubmit: (event) => { event.preventDefault(); this.#filter(); } }, el("label", { for: "review-slide", class: "quiet" }, "Slide"), this.slideField, this.slideNames, el("button", { class: "button", type: "submit", "data-test": "review-filter" }, "Show")),
        this.slide ? el("a", { href: href("/review"), "data-test": "review-all" }, "All slides") : null,
        el("div", { class: "toolbar push" },
          el("span", {}, el("span", { class: "quiet" }, "Reviewer "), this.reviewerText),
          this.context.settings.reviewer ? null : el("button", { class: "button small", type: "button", "data-test": "reviewer-change", onclick: () => this.#ask() }, "Change"),
          el("button", { class: "button", type: "button", "aria-keyshortcuts": "?", "data-test": "review-help", onclick: () => helpSheet(this.labels) }, "Keys", el("kbd", { "aria-hidden": "true" }, "?")))),
      this.message,
      el("div", { class: "review-layout" },
        el("div", {},
          this.empty,
          this.card,
          el("div", { class: "review-actions" }, this.confirm, this.corrections, this.skipButton, this.undoButton, this.noteButton),
          this.noteField),
        el("div", { class: "review-side" },
          this.unsent,
          this.answerPanel = panel(`Answer of ${stage}`, "review-answer", this.answer),
          panel("Your last verdicts", "review-done", this.doneBody),
          this.agreement.element,
          goldenPanel(this.context))),
    );
    this.card.append(el("div", { class: "toolbar review-head" }, this.heading, this.slideLink = el("a", {}), this.imageLink = el("a", { class: "push" }, "All about this image")), this.picture.element);
    this.slideField.addEventListener("search", () => { if (this.slideField.value === "" && this.slide) this.#filter(); });
    fillHeight(this.picture.element, this.context.signal, BELOW_PX);
    this.#drawReviewer();
  }

  #changed(entry = null) {
    const { count, isWhole } = this.queue.left;
    const done = this.queue.done.length;
    this.progressText.textContent = `${format.count(done)} reviewed, ${format.count(count)}${isWhole ? "" : " or more"} to go`;
    this.progressBar.style.width = `${done + count === 0 ? 100 : (100 * done) / (done + count)}%`;
    this.undoButton.disabled = done === 0 || this.queue.done.at(-1).isUndoing === true;
    this.#keepFocus(() => {
      replaceChildren(this.doneBody, doneList(this.queue, this.context.href, (one) => this.#undo(one)));
      replaceChildren(this.unsent, unsentPanel(this.queue));
    });
    if (entry?.state === "sent") {
      clearTimeout(this.agreementTimer);
      this.agreementTimer = setTimeout(() => { if (!this.context.signal.aborted) this.agreement.load(); }, AGREEMENT_MS);
    }
    this.picture.prepare(this.queue.items.slice(0, AHEAD + 1));
    if ((this.queue.current?.result_id ?? "none") !== this.drawnId) this.#draw();
    else if (!this.queue.current) this.#drawEmpty();
  }

  /** Draws what may hold the focus; if it goes with what was there, the image has it. */
  #keepFocus(draw) {
    const before = document.activeElement;
    draw();
    if (before && before !== document.body && !before.isConnected) this.card.focus({ preventScroll: true });
  }

  #draw() {
    const record = this.queue.current;
    this.drawnId = record?.result_id ?? "none";
    this.picture.clear();
    this.note.value = "";
    this.noteField.hidden = true;
    for (const part of [this.card, this.confirm, this.corrections, this.skipButton, this.noteButton, this.answerPanel]) part.hidden = !record;
    this.empty.hidden = Boolean(record);
    this.#enable();
    if (!record) {
      replaceChildren(this.corrections);
      this.#drawEmpty();
      return;
    }
    replaceChildren(this.empty);
    const { href, settings } = this.context;
    this.heading.textContent = nameOf(record.image.key);
    this.slideLink.textContent = record.slide === "" ? "(no folder)" : record.slide;
    this.slideLink.href = href("/slide", { name: record.slide });
    this.imageLink.href = href("/image", { key: record.image.key });
    replaceChildren(this.answer, answerBlock(record), probabilityBars(record, settings.positive_labels), el("p", { class: "quiet small-text" }, `${modelName(record.model)}, uploaded ${format.time(record.image.uploaded_at)}`));
    this.#drawCorrections(record);
    this.confirm.firstChild.textContent = `Confirm ${record.label}`;
    this.picture.show(record);
    this.context.setTitle(`Review: ${nameOf(record.image.key)}`);
    this.context.announce(`${this.spoken ?? ""}${this.queue.done.length + 1}. ${nameOf(record.image.key)}: ${wordsOf(record)}. ${record.review_reason ?? ""}`);
    this.spoken = null;
    if (!this.#isTyping()) this.card.focus({ preventScroll: true });
  }

  /** Labels in the same order for every image, so that a digit always means the same. */
  #labelsFor(record) {
    return [...this.labels, ...Object.keys(record.probabilities ?? {}).filter((label) => !this.labels.includes(label)).sort()];
  }

  #drawCorrections(record) {
    const others = this.#labelsFor(record).map((label, index) => [label, index + 1]).filter(([label]) => label !== record.label);
    this.#keepFocus(() => replaceChildren(this.corrections, others.map(([label, number]) => el("button", { class: "button", type: "button", "aria-keyshortcuts": number < 10 ? number : null, "data-test": `review-correct-${label}`, "data-label": label, onclick: () => this.#decide("correct", label) }, el("span", {}, `It is ${label}`), number < 10 ? el("kbd", { "aria-hidden": "true" }, number) : null))));
  }

  #enable() {
    const record = this.queue.current;
    // `aria-disabled`, not `disabled`: a button that is pressed keeps the focus while the next image loads.
    for (const button of [this.confirm, ...this.corrections.children]) button.setAttribute("aria-disabled", String(!(record && this.picture.isSeen)));
    for (const button of [this.skipButton, this.noteButton]) button.disabled = !record;
  }

  #drawEmpty() {
    const { href } = this.context;
    const skipped = this.queue.skipped.length;
    const where = this.slide ? ` of ${this.slide}` : "";
    const box = skipped > 0
      ? stateBox({ kind: "empty", title: `Only skipped images are left: ${skipped}`, text: "All others have a verdict.", action: { label: "Look at them again", run: () => this.queue.resumeSkipped() } })
      : stateBox({
        kind: "empty",
        title: `Nothing${where} needs a look`,
        text: "Every image that the model was unsure of has a verdict. New ones appear here by themselves. An image that the model was sure of can be found by its slide.",
        action: this.slide ? { label: "Review all slides", href: href("/review") } : { label: "To the slides", href: href("/") },
      });
    this.#keepFocus(() => replaceChildren(this.empty, box));
    if (this.emptySaid !== skipped) this.context.announce(box.textContent);
    this.emptySaid = skipped;
  }

  #decide(action, label = null) {
    const record = this.queue.current;
    if (!record) return;
    if (!this.picture.isSeen) {
      this.context.announce("The image is not there yet: a verdict has to wait for it.");
      return;
    }
    if (!this.reviewer) {
      this.#ask();
      return;
    }
    this.#say(null);
    const verdict = action === "confirm" ? record.label : label;
    this.emptySaid = null;
    this.spoken = `${action === "confirm" ? "Confirmed" : "Corrected to"} ${verdict}. `;
    this.queue.decide({ action, label: verdict, note: this.note.value.trim(), reviewer: this.reviewer });
  }

  #skip() {
    if (!this.queue.current) return;
    this.#say(null);
    this.spoken = "Skipped. ";
    this.queue.skip();
  }

  async #undo(entry = this.queue.done.at(-1)) {
    if (!entry) return;
    try {
      const undone = await this.queue.undo(entry);
      if (!undone) return;
      this.#say(null);
      this.context.announce(`The verdict on ${nameOf(undone.body.key)} is taken back.`);
    } catch (error) {
      this.#say(`The verdict on ${nameOf(entry.body.key)} could not be taken back, and stands: ${error.detail ?? error}`);
    }
  }

  #refused({ entry, error }) {
    const next = this.queue.current?.image.key === entry.body.key ? "It is shown again." : "It is the next image.";
    this.#say(`The verdict on ${nameOf(entry.body.key)} was not taken: ${error.detail} ${next}`);
  }

  #say(words) {
    this.message.hidden = words === null;
    replaceChildren(this.message, words === null ? null : [icon("warning"), el("span", {}, words)]);
  }

  #openNote() {
    this.noteField.hidden = false;
    this.note.focus();
  }

  #filter() {
    const name = this.slideField.value.trim();
    this.context.navigate("/review", name ? { slide: name } : {});
  }

  /** Offers slides whose name has what is typed. */
  #suggest() {
    clearTimeout(this.suggestTimer);
    this.suggestTimer = setTimeout(async () => {
      try {
        const { slides } = await api.get("/api/slides", { stage: this.context.stage, search: this.slideField.value.trim(), limit: SUGGESTED }, { signal: this.context.signal });
        replaceChildren(this.slideNames, slides.map(({ slide }) => el("option", { value: slide })));
      } catch {
        // A name can be typed without being offered.
      }
    }, 200);
  }

  async #ask() {
    const name = await askReviewer(this.reviewer);
    if (name) this.reviewer = name;
    this.#drawReviewer();
    // Whoever was quick has a field already.
    if (!this.#isTyping()) this.card.focus({ preventScroll: true });
  }

  #drawReviewer() {
    this.reviewerText.textContent = this.reviewer ?? "not named yet";
  }

  #isTyping() {
    return document.activeElement?.closest("input, textarea, select, dialog") !== null && document.activeElement !== null && document.activeElement !== document.body;
  }

  #key(event) {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const at = event.target instanceof Element ? event.target : document.body;
    if (at.closest("input, textarea, select")) {
      if (event.key === "Escape" && at === this.note) this.card.focus({ preventScroll: true });
      return;
    }
    const letter = event.key.toLowerCase();
    const isUndoChord = (event.ctrlKey || event.metaKey) && letter === "z" && !event.shiftKey;
    if (!isUndoChord && (event.ctrlKey || event.metaKey || event.altKey)) return;
    // Enter on a button or link is that button's.
    if (event.key === "Enter" && at.closest("button, a, summary")) return;
    const label = /^[1-9]$/.test(event.key) && this.queue.current ? this.#labelsFor(this.queue.current)[event.key - 1] : undefined;
    const run = isUndoChord || letter === "u" ? () => this.#undo()
      : event.key === "Enter" || letter === "c" ? () => this.#decide("confirm")
      : letter === "s" ? () => this.#skip()
      : letter === "n" ? () => { if (this.queue.current) this.#openNote(); }
      : event.key === "?" ? () => helpSheet(this.labels)
      : label !== undefined ? () => (label === this.queue.current.label ? this.#decide("confirm") : this.#decide("correct", label))
      : null;
    if (!run) return;
    event.preventDefault();
    // A key that is held judges one image, not all.
    if (!event.repeat) run();
  }
}
