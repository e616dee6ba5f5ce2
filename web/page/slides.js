// The list of slides: search, figures, what is unanswered; newest activity first, live.
//
// Never computes a figure. Invariant: what a reader has under the pointer or the focus does not move away from there;
// numbers change in place, and a new order waits until it is asked for or the reader has left the list.

import { api, copyButton, el, focusedIn, format, icon, replaceChildren, skeleton, stateBox } from "./core.js";
import { finding, parasitemia, parasitemiaHelp, remarks, tally } from "./figure.js";
import { uploads } from "./upload.js";

const PAGE = 50;
const EVERY_MS = 2_000;
/** How long after the pointer moved over the list its rows stay where they are, so that no click hits another. */
const AIMING_MS = 3_000;
const SEARCH_AFTER_MS = 250;

/** Slides of one question for what is unanswered. */
const UNANSWERED_AT_ONCE = 25;

/** How long what is unanswered counts as known, ms; of a slide that waits, each turn asks again. */
const UNANSWERED_FOR_MS = 20_000;

const COLUMNS = [
  ["Slide", "", null],
  ["Finding", "", null],
  ["Parasitemia", "number", "positive cells per 100 cells, with the 95 % Wilson score interval"],
  ["Cells", "number", "classified images that look like cells"],
  ["Positives", "number", "cells whose label counts as positive"],
  ["Needs review", "number", "images that a person should look at"],
  ["No cell", "number", "images like nothing the model was trained on (outliers); they are not counted as cells"],
  ["Rejected", "number", "images that could not be classified"],
  ["Unanswered", "number", "uploads that have no answer yet"],
  ["Last activity", "", null],
];

/** Shows the list. */
export async function show(root, query, context) {
  new SlidesList(root, query, context).start();
}

class SlidesList {
  constructor(root, query, context) {
    this.context = context;
    this.search = query.get("search") ?? "";
    /** Slide to `{entry, row, unanswered, askedAt, activityAsked}`. */
    this.slides = new Map();
    this.next = null;
    this.loaded = false;
    /** Names in view, for which it is asked what is unanswered. */
    this.inView = new Set();
    this.build(root);
  }

  build(root) {
    const { context } = this;
    this.input = el("input", {
      type: "search", id: "search", value: this.search, placeholder: "Search slides", autocomplete: "off", spellcheck: "false", "data-test": "search",
    });
    this.count = el("span", { class: "quiet", "data-test": "slides-count" });
    this.moved = el("button", { class: "button small", type: "button", hidden: true, "data-test": "show-new-order", onclick: () => this.arrange(true) });
    this.pointerMovedAt = -Infinity;
    this.body = el("tbody", { "data-test": "slides" });
    this.body.addEventListener("pointermove", () => { this.pointerMovedAt = performance.now(); });
    this.more = el("button", { class: "button", type: "button", hidden: true, "data-test": "more", onclick: () => this.loadMore() }, "Show more slides");
    this.table = el(
      "div",
      { class: "table-frame", hidden: true },
      el(
        "table",
        { class: "slides" },
        el("caption", { class: "visually-hidden" }, "Slides, newest activity first"),
        el("thead", {}, el("tr", {}, COLUMNS.map(([name, kind, title]) => el("th", { scope: "col", class: kind, title }, name)))),
        this.body,
      ),
    );
    this.place = el("div", { class: "panel" }, skeleton(8, "Loading the slides"));
    replaceChildren(
      root,
      el(
        "div",
        { class: "toolbar page-head" },
        el("h1", {}, "Slides"),
        el("div", { class: "search" }, icon("search"), el("label", { for: "search", class: "visually-hidden" }, "Search slides by a part of their name"), this.input),
        this.count,
        this.moved,
        el("span", { class: "push quiet small-text field" }, "Parasitemia with its 95 % Wilson interval", parasitemiaHelp(context.href)),
      ),
      uploads.dropZone(),
      this.place,
      this.table,
      el("div", { class: "more" }, this.more),
    );
    this.observer = new IntersectionObserver((changes) => {
      for (const { target, isIntersecting } of changes) {
        const { slide } = /** @type {HTMLElement} */ (target).dataset;
        if (isIntersecting) this.inView.add(slide);
        else this.inView.delete(slide);
      }
      this.askUnanswered();
    });
    context.signal.addEventListener("abort", () => this.observer.disconnect());
    this.body.addEventListener("click", (event) => this.open(event));
    this.table.addEventListener("pointerleave", () => this.arrange(false));
    let timer = null;
    this.input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.find(this.input.value.trim()), SEARCH_AFTER_MS);
    });
    uploads.addEventListener("answered", () => this.poll().catch(() => {}), { signal: context.signal });
  }

  start() {
    this.context.every(EVERY_MS, () => this.poll());
  }

  /** A click anywhere in a row opens its slide, unless text was selected. */
  open(event) {
    if (event.target.closest("a, button") || getSelection().toString() !== "") return;
    const link = event.target.closest("tr")?.querySelector("a");
    if (!link) return;
    if (event.ctrlKey || event.metaKey) window.open(link.href, "_blank", "noopener");
    else link.click();
  }

  find(text) {
    if (text === this.search) return;
    this.search = text;
    this.context.setQuery({ search: text });
    this.clear();
    this.poll().catch(() => {});
  }

  clear() {
    this.slides.clear();
    this.body.replaceChildren();
    this.observer.disconnect();
    this.inView.clear();
    this.next = null;
    this.loaded = false;
  }

  params(cursor) {
    return { stage: this.context.stage, search: this.search, limit: PAGE, cursor };
  }

  async poll() {
    const { search } = this;
    let page;
    try {
      page = await api.get("/api/slides", this.params(null), { signal: this.context.signal, same: true });
    } catch (error) {
      if (!this.loaded && error.name === "ApiError" && search === this.search) this.showError(error);
      throw error;
    }
    // An answer to a search that was changed meanwhile.
    if (search !== this.search) return;
    if (page !== this.page || !this.loaded) this.take(page);
    else if (!this.moved.hidden) this.arrange(false);
    this.tick();
    await this.askUnanswered();
  }

  take(page) {
    this.page = page;
    for (const entry of page.slides) this.put(entry);
    if (!this.loaded) {
      this.next = page.next;
      this.loaded = true;
      this.drawFrame();
      this.arrange(true);
      this.returnTo();
      this.context.announce(this.summary());
    } else {
      this.arrange(false);
    }
    this.drawFrame();
  }

  /** Back from a slide: to its row. */
  returnTo() {
    const { previous } = this.context;
    if (previous?.path !== "/slide" || this.returned) return;
    this.returned = true;
    const row = this.slides.get(previous.query.get("name") ?? "")?.row;
    row?.scrollIntoView({ block: "nearest" });
    row?.querySelector("a").focus({ preventScroll: true });
  }

  async loadMore() {
    const { search } = this;
    this.more.disabled = true;
    try {
      const page = await api.get("/api/slides", this.params(this.next), { signal: this.context.signal });
      if (search !== this.search) return;
      const first = page.slides.find((entry) => !this.slides.has(entry.slide));
      for (const entry of page.slides) this.put(entry);
      this.next = page.next;
      this.arrange(true);
      this.drawFrame();
      // The focus goes on with the list.
      if (first) this.slides.get(first.slide).row.querySelector("a").focus({ preventScroll: true });
    } catch (error) {
      if (error.name === "ApiError") this.context.announce(`More slides could not be loaded: ${error.detail}`);
    } finally {
      this.more.disabled = false;
    }
  }

  summary() {
    const shown = format.plural(this.slides.size, "slide");
    return this.next ? `the ${shown} with the newest activity` : shown;
  }

  drawFrame() {
    const none = this.slides.size === 0;
    this.table.hidden = none;
    this.place.hidden = !none;
    this.more.hidden = !this.next;
    this.count.textContent = none ? "" : this.summary();
    if (!none) return;
    replaceChildren(this.place, this.search ? this.noMatch() : this.noSlides());
  }

  noMatch() {
    return stateBox({
      kind: "empty",
      title: `No slide has “${this.search}” in its name`,
      text: "Capitals do not matter. A slide is the folder that its images were uploaded to.",
      action: { label: "Show all slides", run: () => { this.input.value = ""; this.find(""); this.input.focus(); } },
    });
  }

  noSlides() {
    return stateBox({
      kind: "empty",
      title: this.context.stage === this.context.settings.stages[0] ? "No slides yet" : `The stage “${this.context.stage}” has answered no image yet`,
      text: [
        el("p", {}, "Drop a folder of images here: the folder becomes the slide. Or copy one from a terminal:"),
        el("p", {}, el("code", { class: "command", "data-test": "command" }, uploads.command()), " ", copyButton(() => uploads.command())),
        uploads.isLocal ? el("p", { class: "small-text" }, "The terminal needs the variables that ", el("code", {}, "giemsa up"), " shows when it starts.") : null,
      ],
      action: el("button", { class: "button primary", type: "button", onclick: () => uploads.pickFolder() }, icon("folder"), "Choose a folder"),
    });
  }

  showError(error) {
    this.table.hidden = true;
    this.place.hidden = false;
    replaceChildren(this.place, stateBox({
      kind: "error",
      title: error.status === 0 ? "The server does not answer" : "The slides could not be listed",
      text: error.status === 0 ? "The list comes by itself as soon as it does." : error.detail,
      action: error.status === 0 ? null : { label: "Try again", run: () => this.poll().catch(() => {}) },
    }));
  }

  /** Takes in an entry: its row is made, or changed in place. */
  put(entry) {
    const known = this.slides.get(entry.slide);
    if (!known) {
      const row = this.makeRow(entry.slide);
      this.slides.set(entry.slide, { entry, row, unanswered: null, askedAt: 0, activityAsked: null });
      this.drawRow(entry.slide);
      return;
    }
    const before = known.entry;
    known.entry = entry;
    if (before.last_activity_at !== entry.last_activity_at || JSON.stringify(before.figure) !== JSON.stringify(entry.figure)) this.drawRow(entry.slide);
  }

  makeRow(slide) {
    const link = el("a", { href: this.context.href("/slide", { name: slide }), "data-test": "slide-link" }, slide);
    const row = el("tr", { class: "is-link", "data-test": "slide-row" }, el("th", { scope: "row", class: "slide-name" }, link), COLUMNS.slice(1).map(([, kind]) => el("td", { class: kind })));
    row.dataset.slide = slide;
    return row;
  }

  drawRow(slide) {
    const { entry, row, unanswered } = this.slides.get(slide);
    const { figure } = entry;
    const [, found, percent, cells, positives, review, outliers, rejected, open, activity] = row.cells;
    replaceChildren(found, finding(figure, unanswered), remarks(figure));
    replaceChildren(percent, parasitemia(figure));
    replaceChildren(cells, format.count(figure.cells));
    replaceChildren(positives, tally(figure.positives, "positive"));
    replaceChildren(review, tally(figure.needs_review, "review"));
    replaceChildren(outliers, tally(figure.outliers, "outlier"));
    replaceChildren(rejected, tally(figure.rejected, "rejected"));
    replaceChildren(open, unanswered === null ? el("span", { class: "quiet", "aria-label": "not known yet" }, "…") : tally(unanswered, "warning"));
    replaceChildren(activity, el("time", { datetime: entry.last_activity_at, title: format.time(entry.last_activity_at), class: "nowrap" }, format.relative(entry.last_activity_at)));
    row.classList.toggle("has-positives", figure.positives > 0);
  }

  /** Times that are told relative to now. */
  tick() {
    for (const { entry, row } of this.slides.values()) {
      const time = row.querySelector("time");
      const words = format.relative(entry.last_activity_at);
      if (time.textContent !== words) time.textContent = words;
    }
  }

  /** Puts rows into the order of activity, at once or when nobody is busy with the list. */
  arrange(now) {
    const sorted = [...this.slides.values()].sort((a, b) =>
      b.entry.last_activity_at.localeCompare(a.entry.last_activity_at) || a.entry.slide.localeCompare(b.entry.slide));
    const moves = sorted.filter(({ row }, index) => this.body.rows[index] !== row).length;
    // A pointer that rests on the list, as after a drop, aims at no row.
    const aims = this.body.matches(":hover") && performance.now() - this.pointerMovedAt < AIMING_MS;
    const busy = aims || this.body.querySelector(":focus-visible") !== null;
    if (moves === 0 || (busy && !now && this.body.rows.length > 0)) {
      this.moved.hidden = moves === 0;
      const fresh = sorted.filter(({ row }) => !row.isConnected).length;
      this.moved.textContent = fresh > 0 ? `Show ${format.plural(fresh, "new slide")}` : "Show the new order";
      return;
    }
    this.moved.hidden = true;
    const focused = focusedIn(this.body);
    sorted.forEach(({ row }, index) => {
      const there = this.body.rows[index];
      if (there === row) return;
      const isNew = !row.isConnected;
      this.body.insertBefore(row, there ?? null);
      if (isNew) this.observer.observe(row);
    });
    focused?.focus({ preventScroll: true });
  }

  /** Asks for what is unanswered of slides in view, and shows it. */
  async askUnanswered() {
    if (this.asking || this.context.signal.aborted) return;
    const now = Date.now();
    const due = [...this.inView].filter((slide) => {
      const known = this.slides.get(slide);
      if (!known) return false;
      if (known.unanswered === null || known.entry.last_activity_at !== known.activityAsked) return true;
      return now - known.askedAt > (known.unanswered > 0 ? EVERY_MS : UNANSWERED_FOR_MS);
    });
    if (due.length === 0) return;
    const asked = due.slice(0, UNANSWERED_AT_ONCE);
    this.asking = true;
    try {
      const answer = await api.get("/api/slides/unanswered", { stage: this.context.stage, slide: asked }, { signal: this.context.signal });
      for (const { slide, unanswered } of answer.slides) {
        const known = this.slides.get(slide);
        if (!known) continue;
        const changed = known.unanswered !== unanswered;
        Object.assign(known, { unanswered, askedAt: Date.now(), activityAsked: known.entry.last_activity_at });
        if (changed) this.drawRow(slide);
      }
    } catch (error) {
      // Shown as not known, and asked again at the next turn; called off, because the view was left.
      if (error.name === "ApiError" || this.context.signal.aborted) return;
      throw error;
    } finally {
      this.asking = false;
    }
    if (due.length > asked.length) await this.askUnanswered();
  }
}
