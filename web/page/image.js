// The image view: one image with pan and zoom, every stage's answer, its history and its reviews.
//
// Never shows an image beside the answer to another: the picture is covered until the one asked for is there.
// Invariant: going to the next image needs no new view; the way back to the slide keeps the slide's filters.

import { api, el, focusedIn, icon, links, nameOf, replaceChildren, skeleton, slideOf, stateBox } from "./core.js";
import { answerBlock, fileFacts, modelFacts, panel, probabilityBars, timingFacts, wordsOf } from "./answer.js";
import { historyPanel, rawPanel, reviewsPanel, stagesPanel } from "./image_panels.js";
import { VerdictControls } from "./image_verdict.js";
import { WithdrawalControls } from "./image_withdrawal.js";
import { Neighbours } from "./neighbours.js";
import { linkTo, needsTiles, sourceOf } from "./picture.js";
import { createViewer, fillHeight } from "./viewer.js";

/** Pause between two looks for new results of the image, ms. */
const EVERY_MS = 5_000;

/** Parameters of this view; all others are the slide view's and go back with the link to it. */
const OWN_PARAMETERS = ["key", "stage"];

export async function show(root, query, context) {
  const key = query.get("key");
  if (!key) {
    root.append(stateBox({ kind: "empty", title: "No image was chosen", text: "Open one from its slide.", action: { label: "To the slides", href: context.href("/") } }));
    return;
  }
  await new ImageView(root, query, context).start(key);
}

class ImageView {
  constructor(root, query, context) {
    this.root = root;
    this.context = context;
    this.filters = Object.fromEntries([...query].filter(([name]) => !OWN_PARAMETERS.includes(name)));
    this.key = null;
    this.answer = null;
    this.drawn = "";
    this.isRawOpen = false;
    /** Key to the answer and source of an image beside this one. */
    this.ahead = new Map();
    this.turn = new AbortController();
    this.heading = el("h1", { "data-test": "image-name", tabindex: -1 });
    this.crumbs = el("nav", { class: "crumbs", "aria-label": "Back" });
    this.place = el("span", { class: "quiet nowrap", "data-test": "image-place" });
    this.previous = this.#walkButton("previous", "Previous image", "k", -1);
    this.next = this.#walkButton("next", "Next image", "j", 1);
    this.side = el("div", { class: "image-side" }, skeleton(8));
    this.stage = el("div", { class: "image-stage" });
  }

  async start(key) {
    const { signal, stage, every } = this.context;
    this.viewer = await createViewer();
    signal.addEventListener("abort", () => { this.turn.abort(); this.viewer.destroy(); });
    if (signal.aborted) return;
    this.stage.append(this.viewer.element);
    this.root.append(
      el("div", { class: "toolbar image-head" }, el("div", { class: "image-title" }, this.crumbs, this.heading), el("div", { class: "toolbar push" }, this.previous, this.place, this.next)),
      el("div", { class: "image-layout" }, this.stage, this.side),
    );
    document.addEventListener("keydown", (event) => this.#key(event), { signal });
    fillHeight(this.stage, signal);
    this.verdict = new VerdictControls(this.context, { changed: () => this.refresh(), isSeen: () => !this.stage.classList.contains("is-waiting") });
    this.withdrawal = new WithdrawalControls(this.context, { changed: () => this.refresh() });
    this.neighbours = new Neighbours(stage, this.filters);
    await this.open(key);
    every(EVERY_MS, () => this.refresh());
  }

  /** Goes to another image within this view. */
  async open(key) {
    this.turn.abort();
    this.turn = new AbortController();
    const { signal } = this.turn;
    this.key = key;
    this.answer = null;
    this.drawn = "";
    this.context.setQuery({ key });
    this.context.setTitle(nameOf(key));
    this.heading.textContent = nameOf(key);
    this.stage.classList.add("is-waiting");
    this.viewer.say(null);
    replaceChildren(this.side, skeleton(8));
    const ready = this.ahead.get(key);
    try {
      this.answer = ready?.answer ?? await api.get("/api/image", { key }, { signal, same: true });
    } catch (error) {
      if (signal.aborted) return;
      if (error.status !== 404) throw error;
      this.#drawWay(slideOf(key));
      this.stage.hidden = true;
      replaceChildren(this.side, stateBox({ kind: "empty", title: "There is no such image", text: error.detail, action: { label: "To the slides", href: this.context.href("/") } }));
      return;
    }
    if (signal.aborted) return;
    this.stage.hidden = false;
    this.#draw();
    const record = this.record();
    if (record) this.context.announce(`${nameOf(key)}: ${wordsOf(record)}${record.needs_review ? `. A person should look: ${record.review_reason}` : ""}`);
    const shown = this.#showPicture(record?.image ?? { key }, signal);
    // Not awaited: the view can be used while the picture is on its way.
    this.#walk(signal).then(() => shown).then(() => this.#prefetch(signal));
    // What was read ahead may be some seconds old.
    if (ready) this.refresh().catch(() => { /* the next look comes by itself */ });
  }

  /** Loads the images beside this one, so that they are there when they are asked for. */
  async #prefetch(signal) {
    const ahead = new Map();
    this.ahead = ahead;
    for (const cell of [this.around?.next, this.around?.previous]) {
      if (!cell || signal.aborted) continue;
      try {
        const answer = await api.get("/api/image", { key: cell.key }, { signal, same: true });
        const record = this.record(answer);
        // The source is kept for its picture: while it is, the browser has it in memory.
        if (record) ahead.set(cell.key, { answer, source: await sourceOf(record.image, { signal, deepZoom: answer.deep_zoom ?? undefined }) });
      } catch {
        // It is asked for again when it is shown.
      }
    }
  }

  /** The record of the chosen stage, or else of the first that answered. */
  record({ results } = this.answer) {
    return results.find((record) => record.stage === this.context.stage) ?? this.#inOrder(results)[0] ?? null;
  }

  /** Results in the order of the stages, the one whose answers count first. */
  #inOrder(results) {
    const { stages } = this.context.settings;
    return [...results].sort((a, b) => stages.indexOf(a.stage) - stages.indexOf(b.stage));
  }

  /** Looks for new results and reviews. */
  async refresh() {
    const { signal } = this.turn;
    const { key } = this;
    if (!this.answer) return;
    const before = this.record()?.image;
    const answer = await api.get("/api/image", { key }, { signal, same: true });
    if (signal.aborted || key !== this.key) return;
    this.answer = answer;
    this.#draw();
    const now = this.record()?.image;
    // The image itself was replaced: the new one is shown under the new answer.
    if (now && before && (now.etag !== before.etag || now.version_id !== before.version_id)) await this.#showPicture(now, signal);
  }

  async #showPicture(image, signal, note = null) {
    this.stage.classList.add("is-waiting");
    this.stage.classList.remove("is-failed");
    this.stage.setAttribute("aria-busy", "true");
    const label = `Image ${nameOf(this.key)}`;
    try {
      // What is known of the tiles is of the current version.
      const source = await this.#sourceOf(image, note ? undefined : this.answer.deep_zoom, signal);
      if (signal.aborted) return;
      await this.viewer.show(source, label).catch(async (error) => {
        if (source.deepZoom || signal.aborted) throw error;
        // Perhaps its link ran out: once more with a new one.
        this.#forget(image);
        await this.viewer.show({ url: await linkTo(image, signal) }, label);
      });
      if (signal.aborted) return;
      this.stage.setAttribute("aria-busy", "false");
      this.stage.classList.remove("is-waiting");
      if (note) this.viewer.say(...note);
      else if (this.record()?.status === "rejected") this.viewer.say("This file was rejected: what the browser shows of it may be incomplete.");
      else this.viewer.sayWithoutLibrary(source);
    } catch (error) {
      if (signal.aborted) return;
      const record = this.record();
      const why = record?.status === "rejected"
        ? `The browser cannot show this file either: ${record.reject?.message ?? error.message}`
        : `The image could not be shown: ${error.detail ?? error.message}.`;
      this.stage.setAttribute("aria-busy", "false");
      this.stage.classList.add("is-failed");
      this.viewer.say(why, el("button", { class: "button small", type: "button", "data-test": "image-again", onclick: () => { this.#forget(image); this.#showPicture(image, signal, note); } }, "Try again"));
    }
  }

  /** Tiles, or the link alone: the viewer loads the picture, from the browser's memory if it was prepared. */
  async #sourceOf(image, deepZoom, signal) {
    if (deepZoom || needsTiles(image)) return sourceOf(image, { signal, deepZoom: deepZoom ?? undefined });
    return { url: await linkTo(image, signal) };
  }

  #forget(image) {
    links.forget({ key: image.key, version_id: image.version_id }, "image");
  }

  #draw() {
    const text = JSON.stringify(this.answer);
    if (text === this.drawn) return;
    this.drawn = text;
    const { answer, context } = this;
    const record = this.record();
    this.#drawWay(record?.slide ?? slideOf(this.key));
    if (!record) {
      replaceChildren(this.side, stateBox({ kind: "empty", title: "No answer yet", text: "The image is uploaded and no stage has answered it. This page shows the answer as soon as it is there; if it takes long, the health page says why.", action: { label: "To health", href: context.href("/health") } }), reviewsPanel(answer));
      return;
    }
    this.verdict.draw(record, answer.verdict);
    this.withdrawal.draw(record, answer.withdrawals);
    const isOtherStage = record.stage !== context.stage;
    const controls = [this.verdict.element, this.withdrawal.element];
    const focused = controls.map(focusedIn).find((element) => element !== null);
    replaceChildren(
      this.side,
      isOtherStage ? el("p", { class: "hint" }, icon("warning"), el("span", {}, `The stage ${context.stage} has not answered this image; this is the answer of ${record.stage}.`)) : null,
      panel(`Answer of ${record.stage}`, "panel-answer", el("div", { class: "panel-body" }, answerBlock(record), record.probabilities ? probabilityBars(record, context.settings.positive_labels) : null)),
      reviewsPanel(answer, record, [this.verdict.element, el("a", { href: context.href("/review", { slide: record.slide }), "data-test": "to-review" }, "Review what else needs a look in this slide")]),
      this.withdrawal.element,
      answer.results.length > 1 ? stagesPanel(this.#inOrder(answer.results)) : null,
      panel("Model", "panel-model", el("div", { class: "panel-body" }, modelFacts(record))),
      panel("Timings", "panel-timings", el("div", { class: "panel-body" }, timingFacts(record))),
      panel("File", "panel-file", el("div", { class: "panel-body" }, fileFacts(record.image), this.#sameBytes(answer.same_bytes))),
      historyPanel(answer, record, (earlier) => this.#showEarlier(earlier, record.image)),
      rawPanel(this.#inOrder(answer.results), this.isRawOpen, (isOpen) => { this.isRawOpen = isOpen; }),
    );
    // Taken out and put in again, an element loses the focus.
    focused?.focus({ preventScroll: true });
  }

  #sameBytes(keys) {
    if (keys.length === 0) return null;
    const link = (key) => el("li", {}, el("a", { href: this.context.href("/image", { key }) }, nameOf(key)));
    return el("div", { "data-test": "same-bytes" }, el("p", { class: "hint" }, icon("copy"), el("span", {}, "Other images of this slide are the same bytes. Each of them counts unless it is withdrawn.")), el("ul", {}, keys.map(link)));
  }

  #showEarlier(earlier, current) {
    const { signal } = this.turn;
    const back = el("button", { class: "button small", type: "button", "data-test": "version-current", onclick: () => this.#showPicture(current, signal) }, "Back to the current image");
    this.#showPicture({ ...current, version_id: earlier.version_id }, signal, ["You are looking at an earlier version. The answer beside it is to the current one.", back]);
  }

  #drawWay(slide) {
    const { href } = this.context;
    replaceChildren(
      this.crumbs,
      el("a", { href: href("/") }, "Slides"),
      icon("next"),
      el("a", { href: href("/slide", { ...this.filters, name: slide }), "data-test": "back-to-slide" }, slide === "" ? "(no folder)" : slide),
    );
  }

  /** Where the image stands among its slide's, and the way to those beside it. */
  async #walk(signal) {
    const record = this.answer && this.record();
    if (!record) return;
    let around;
    try {
      around = await this.neighbours.of(record.slide, this.key, signal);
    } catch (error) {
      // Without neighbours the view is whole; the next image asks again.
      if (!signal.aborted && error.name !== "ApiError") console.error(error);
      return;
    }
    if (signal.aborted) return;
    this.around = around;
    this.place.textContent = around.position === null ? "" : `${around.position} of ${around.count}${around.isWhole ? "" : "+"}`;
    for (const [button, cell] of [[this.previous, around.previous], [this.next, around.next]]) button.disabled = !cell;
  }

  #walkButton(name, label, letter, step) {
    return el("button", { class: "button", type: "button", disabled: true, title: `${label} (${letter})`, "aria-keyshortcuts": letter, "data-test": `image-${name}`, onclick: () => this.#step(step) }, label.split(" ")[0], el("kbd", { "aria-hidden": "true" }, letter));
  }

  #step(step) {
    const cell = step > 0 ? this.around?.next : this.around?.previous;
    if (!cell) return;
    this.around = null;
    this.open(cell.key).catch((error) => {
      if (error.name === "AbortError") return;
      replaceChildren(this.side, stateBox({ kind: "error", title: "The next image could not be opened", text: error.detail ?? String(error), action: { label: "Try again", run: () => this.open(cell.key).catch(() => {}) } }));
    });
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const at = event.target;
    if (at.closest?.("input, textarea, select, dialog, [contenteditable]")) return;
    if (!event.repeat && this.answer && this.verdict.key(event.key)) {
      event.preventDefault();
      return;
    }
    const isInViewer = at.closest?.(".viewer") !== null && at.closest?.(".viewer") !== undefined;
    const step = { j: 1, k: -1, ...(isInViewer ? {} : { ArrowRight: 1, ArrowLeft: -1 }) }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.#step(step);
  }
}
