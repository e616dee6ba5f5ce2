// One slide: its figure, what is unanswered, and all its images as thumbnails, most suspicious first, live.
//
// Never computes a figure. Invariant: what the gallery leaves out is said, be it by filters or because it is still on
// its way.

import { api, DECISIONS, decisionOf, el, focusedIn, format, icon, replaceChildren, skeleton, stateBox } from "./core.js";
import { drawConfidence, drawTimeline } from "./charts.js";
import { finding, parasitemia, parasitemiaHelp } from "./figure.js";
import { Gallery, SIZES } from "./gallery.js";
import { filtersOf, isFiltered, markTwins, passes, placesOf, REVIEWED, select, SORTS, toParams } from "./slide_filters.js";

const EVERY_MS = 2_000;
const FIRST_PAGE = 500;
const PAGE = 2_000;

/** All cells are read again at most once in this many times what it took the last time. */
const RELOAD_SHARE = 8;

const NO_FIGURE = { cells: 0, positives: 0, outliers: 0, needs_review: 0, rejected: 0, cells_with_sign: 0, parasitemia_percent: null, parasitemia_interval_percent: null, reviewed: 0, corrected: 0, withdrawn: 0, duplicates: 0 };

/** Shows the slide that the address names; without a name it is that of images without a folder. */
export async function show(root, query, context) {
  const view = new SlideView(root, query, context);
  await view.start();
}

class SlideView {
  constructor(root, query, context) {
    this.root = root;
    this.context = context;
    this.slide = query.get("name") ?? "";
    this.filters = filtersOf(query);
    /** Key to cell. */
    this.cells = new Map();
    this.complete = false;
    this.readAt = 0;
    this.readTook = 0;
    this.stale = true;
  }

  get title() {
    return this.slide === "" ? "(no folder)" : this.slide;
  }

  async start() {
    const { context } = this;
    context.setTitle(this.title);
    replaceChildren(this.root, this.heading(), el("div", { class: "panel" }, skeleton(6, "Loading the slide")));
    this.build();
    context.every(EVERY_MS, () => this.poll());
  }

  heading() {
    return el("div", {}, el("nav", { class: "crumbs", "aria-label": "Where you are" }, el("a", { href: this.context.href("/") }, "Slides"), icon("next")), el("h1", {}, this.title));
  }

  build() {
    const { context } = this;
    this.help = parasitemiaHelp(context.href);
    this.found = el("span", { "data-test": "finding" });
    this.figures = el("dl", { class: "figures", "data-test": "figure" });
    this.unanswered = el("details", { class: "panel unanswered", hidden: true, "data-test": "unanswered" });
    this.sort = this.choice("Order", SORTS, this.filters.sort, "sort", (value) => { this.filters.sort = value; });
    this.label = this.choice("Label", this.labels(), this.filters.label ?? "", "label", (value) => { this.filters.label = value || null; });
    this.reviewed = this.choice("Review", { "": "Any", ...REVIEWED }, this.filters.reviewed ?? "", "reviewed", (value) => { this.filters.reviewed = value || null; });
    this.needsReview = el("input", { type: "checkbox", id: "needs-review", "data-test": "filter-needs-review" });
    this.needsReview.checked = this.filters.needsReview;
    this.needsReview.addEventListener("change", () => this.filter({ needsReview: this.needsReview.checked }));
    this.chips = el("div", { class: "chips", role: "group", "aria-label": "Decisions shown" });
    this.shownCount = el("p", { class: "quiet", role: "status", "data-test": "shown-count" });
    this.reset = el("button", { class: "button small", type: "button", "data-test": "reset-filters", onclick: () => this.clearFilters() }, icon("close"), "Show all images");
    this.min = this.bound("min", "From");
    this.max = this.bound("max", "to");
    this.histogram = el("div");
    this.timeline = el("div");
    const place = el("div", { "data-test": "gallery", "aria-label": "Images of the slide; arrow keys move, Enter opens" });
    this.empty = el("div", { class: "panel", hidden: true });
    let size = "medium";
    try {
      size = localStorage.getItem("giemsa.tiles") ?? size;
    } catch {
      // Storage is switched off: tiles have their usual size.
    }
    this.gallery = new Gallery(place, { signal: context.signal, size: size in SIZES ? size : "medium", hrefOf: (cell) => this.hrefOf(cell) });
    this.tools = el(
      "div",
      { class: "panel slide-tools" },
      el("div", { class: "toolbar" }, this.chips, el("span", { class: "push" }, this.reset)),
      el("div", { class: "toolbar" }, this.sort, this.label, this.reviewed, el("span", { class: "field" }, this.needsReview, el("label", { for: "needs-review" }, "Needs review only")), el("span", { class: "push" }, this.sizes())),
    );
    this.gallery.covered = () => (getComputedStyle(this.tools).position === "sticky" ? this.tools.getBoundingClientRect().bottom : 0);
    this.body = el(
      "div",
      { class: "slide-body" },
      el("section", { class: "slide-main", "aria-label": "Images" }, this.tools, this.shownCount, this.empty, place),
      el(
        "aside",
        { class: "slide-side", "aria-label": "Charts" },
        el("section", { class: "panel" }, el("h2", {}, "Confidence"), el("div", { class: "panel-body" }, this.histogram, el("div", { class: "toolbar range" }, this.min, this.max), el("p", { class: "quiet small-text" }, "Click a bar to see its images; with Shift, widen the range."))),
        el("section", { class: "panel" }, el("h2", {}, "Uploads over time"), el("div", { class: "panel-body" }, this.timeline)),
      ),
    );
  }

  /** Puts the view in the place of the grey bars, once. */
  open() {
    if (this.opened) return;
    this.opened = true;
    const hadFocus = this.root.contains(document.activeElement);
    replaceChildren(
      this.root,
      el(
        "div",
        { class: "slide-head" },
        this.heading(),
        this.found,
        el("span", { class: "push toolbar" }, el("a", { class: "button primary", href: this.context.href("/review", { slide: this.slide }), "data-test": "review-slide" }, icon("review"), "Review this slide")),
      ),
      this.figures,
      this.unanswered,
      this.body,
    );
    if (!hadFocus) return;
    const heading = this.root.querySelector("h1");
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }

  choice(words, options, value, name, set) {
    const select = el("select", { id: `filter-${name}`, "data-test": `filter-${name}` }, Object.entries(options).map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
    select.addEventListener("change", () => {
      set(select.value);
      this.filter({});
    });
    return el("span", { class: "field" }, el("label", { for: `filter-${name}`, class: "quiet" }, words), select);
  }

  labels() {
    return Object.fromEntries([["", "Any"], ...this.context.settings.labels.map((label) => [label, label])]);
  }

  bound(name, words) {
    const input = el("input", { type: "number", id: `confidence-${name}`, min: 0, max: 1, step: 0.05, value: this.filters[name] ?? "", placeholder: name === "min" ? "0" : "1", "data-test": `confidence-${name}` });
    input.addEventListener("change", () => {
      const value = input.value === "" ? null : Math.min(1, Math.max(0, Number(input.value)));
      this.filter({ [name]: value });
    });
    return el("span", { class: "field" }, el("label", { for: `confidence-${name}` }, words), input);
  }

  sizes() {
    const buttons = Object.keys(SIZES).map((size) => el("button", {
      class: "button small", type: "button", "aria-pressed": String(size === this.gallery.size), "aria-label": `${size} pictures`, title: `${size} pictures`, "data-test": `tiles-${size}`,
      onclick: () => {
        this.gallery.resize(size);
        buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.test === `tiles-${size}`)));
        try {
          localStorage.setItem("giemsa.tiles", size);
        } catch {
          // Storage is switched off: the size holds for this page.
        }
      },
    }, size[0].toUpperCase()));
    return el("span", { class: "field", role: "group", "aria-label": "Size of pictures" }, buttons);
  }

  /** Where a tile leads; the filters go along, so that the image view steps through the same images. */
  hrefOf(cell) {
    return this.context.href("/image", { ...toParams(this.filters), key: cell.key });
  }

  filter(change) {
    Object.assign(this.filters, change);
    this.context.setQuery(toParams(this.filters));
    // Links of tiles carry the filters.
    for (const shown of this.gallery.tiles.values()) shown.link.href = this.hrefOf(shown.cell);
    this.draw();
    this.context.announce(this.shownCount.textContent);
  }

  clearFilters() {
    this.filter({ decisions: new Set(), label: null, needsReview: false, reviewed: null, sameBytes: false, min: null, max: null });
    this.sort.querySelector("select").focus();
  }

  async poll() {
    let answer;
    try {
      // Beside each other the first time, because a reader waits for both.
      const cells = this.opened ? null : this.read().catch(() => {});
      answer = await api.get("/api/slide", { stage: this.context.stage, slide: this.slide }, { signal: this.context.signal, same: true });
      this.take(answer);
      await cells;
    } catch (error) {
      if (!this.opened && error.name === "ApiError") this.showError(error);
      throw error;
    }
    if (this.stale && Date.now() - this.readAt > RELOAD_SHARE * this.readTook) await this.read();
    this.drawShown();
  }

  /** Takes in what `/api/slide` answered; draws only what changed. */
  take(answer) {
    this.open();
    const before = this.answer;
    this.answer = answer;
    const isOther = (part) => !before || JSON.stringify(part(before)) !== JSON.stringify(part(answer));
    if (before && isOther((each) => [each.last_activity_at, each.figure])) this.stale = true;
    if (isOther((each) => [each.last_activity_at, each.figure, each.unanswered, each.uploads, each.not_in_bucket])) this.drawFigure();
    if (isOther((each) => [each.unanswered, each.unanswered_images])) this.drawUnanswered();
    // Cells that came first were drawn before the view was in the document.
    if (!before && this.cells.size > 0) this.draw();
    const time = this.figures.querySelector("time");
    if (time) time.textContent = format.relative(answer.last_activity_at);
  }

  showError(error) {
    replaceChildren(this.root, this.heading(), el("div", { class: "panel" }, stateBox({
      kind: error.status === 404 ? "empty" : "error",
      title: error.status === 404 ? "No such slide" : error.status === 0 ? "The server does not answer" : "The slide could not be read",
      text: error.status === 0 ? "The slide comes by itself as soon as it does." : error.detail,
      action: error.status === 404 ? { label: "To the slides", href: this.context.href("/") } : null,
    })));
  }

  /** Reads all cells; what is there already stays on the screen meanwhile. */
  async read() {
    const { signal } = this.context;
    const started = performance.now();
    const seen = new Set();
    const isFirst = !this.complete;
    this.stale = false;
    let cursor = null;
    try {
      do {
        const limit = isFirst && cursor === null ? FIRST_PAGE : PAGE;
        const page = await api.get("/api/slide/cells", { stage: this.context.stage, slide: this.slide, limit, cursor }, { signal });
        for (const cell of page.cells) {
          seen.add(cell.key);
          const known = this.cells.get(cell.key);
          if (known) cell.isTwin = known.isTwin;
          if (known && JSON.stringify(known) === JSON.stringify(cell)) continue;
          this.cells.set(cell.key, cell);
          this.places = null;
        }
        cursor = page.next ?? null;
        if (isFirst) this.draw();
      } while (cursor !== null);
    } catch (error) {
      this.stale = true;
      throw error;
    }
    for (const key of this.cells.keys()) if (!seen.has(key)) this.cells.delete(key);
    this.complete = true;
    this.readAt = Date.now();
    this.readTook = performance.now() - started;
    // What came while pages were read is not in them: the counts tell.
    if (this.answer && this.cells.size !== this.expected()) this.stale = true;
    this.draw();
  }

  /** Answered images, by the figure. */
  expected() {
    const { cells, outliers, rejected, withdrawn } = this.answer?.figure ?? NO_FIGURE;
    return cells + outliers + rejected + withdrawn;
  }

  draw() {
    this.noteTwins();
    const all = [...this.cells.values()];
    this.drawChips(all);
    this.drawLabels(all);
    this.reset.hidden = !isFiltered(this.filters);
    this.places ??= placesOf(all);
    this.shown = select(all, this.filters, this.places);
    this.gallery.show(this.shown);
    const inCharts = all.filter((cell) => passes(cell, this.filters, "confidence"));
    drawConfidence(this.histogram, inCharts, this.filters, (low, high, widen) => this.chooseRange(low, high, widen));
    drawTimeline(this.timeline, this.shown);
    this.min.querySelector("input").value = this.filters.min ?? "";
    this.max.querySelector("input").value = this.filters.max ?? "";
    this.drawShown();
    this.returnTo();
  }

  /** Which images are the same bytes; a cell of which that changed is another object, so that its tile is drawn anew. */
  noteTwins() {
    const noted = [...this.cells.values()].map((cell) => ({ ...cell }));
    markTwins(noted);
    for (const cell of noted) if (this.cells.get(cell.key).isTwin !== cell.isTwin) this.cells.set(cell.key, cell);
  }

  /** Back from an image: to where it is in the gallery. */
  returnTo() {
    const { previous } = this.context;
    if (this.returned || !this.opened || previous?.path !== "/image") return;
    this.returned = this.gallery.reveal(previous.query.get("key")) || this.complete;
  }

  chooseRange(low, high, widen) {
    const { min, max } = this.filters;
    if (!widen && min === low && max === high) return this.filter({ min: null, max: null });
    this.filter(widen ? { min: Math.min(low, min ?? low), max: Math.max(high, max ?? high) } : { min: low, max: high });
  }

  drawChips(all) {
    const counts = {};
    const there = new Set(this.filters.decisions);
    for (const cell of all) {
      const name = decisionOf(cell);
      there.add(name);
      if (passes(cell, this.filters, "decisions")) counts[name] = (counts[name] ?? 0) + 1;
    }
    const names = Object.keys(DECISIONS).filter((name) => there.has(name));
    const twins = all.filter((cell) => cell.isTwin).length;
    const words = JSON.stringify([names, counts, [...this.filters.decisions], twins, this.filters.sameBytes]);
    if (this.chips.dataset.words === words) return;
    this.chips.dataset.words = words;
    const focused = focusedIn(this.chips)?.dataset.test;
    replaceChildren(this.chips, names.map((name) => el("button", {
      class: `button small chip decision-${name}`, type: "button", "aria-pressed": String(this.filters.decisions.has(name)), title: DECISIONS[name].help, "data-test": `chip-${name}`,
      onclick: () => {
        const decisions = new Set(this.filters.decisions);
        if (!decisions.delete(name)) decisions.add(name);
        this.filter({ decisions });
      },
    }, icon(name), `${DECISIONS[name].word} ${format.count(counts[name] ?? 0)}`)),
    twins > 0 || this.filters.sameBytes ? el("button", {
      class: "button small chip decision-review", type: "button", "aria-pressed": String(this.filters.sameBytes), "data-test": "chip-same-bytes",
      title: "images that are the same bytes as another one of this slide; each of them counts unless it is withdrawn",
      onclick: () => this.filter({ sameBytes: !this.filters.sameBytes }),
    }, icon("copy"), `Same bytes ${format.count(twins)}`) : null);
    if (focused) this.chips.querySelector(`[data-test="${focused}"]`)?.focus();
  }

  /** Labels of models that served before are no setting any more, but images have them. */
  drawLabels(all) {
    const select = this.label.querySelector("select");
    const known = new Set([...select.options].map((option) => option.value));
    const labels = new Set(all.map((cell) => cell.label).filter(Boolean));
    if (this.filters.label) labels.add(this.filters.label);
    for (const label of labels) if (!known.has(label)) select.append(el("option", { value: label, selected: label === this.filters.label }, label));
  }

  drawShown() {
    const expected = this.expected();
    const missing = Math.max(0, expected - this.cells.size);
    const shown = this.shown?.length ?? 0;
    const parts = [`${format.count(shown)} of ${format.plural(expected, "answered image")} shown`];
    const withdrawn = this.answer?.figure?.withdrawn ?? 0;
    if (withdrawn > 0 && !this.filters.decisions.has("withdrawn")) parts.push(`${format.count(withdrawn)} withdrawn, left out`);
    if (!this.complete) parts.push(`${format.count(missing)} still loading`);
    else if (missing > 0) parts.push(`${format.count(missing)} just answered, on the way`);
    const words = this.answer ? parts.join(" · ") : "";
    if (this.shownCount.textContent !== words) this.shownCount.textContent = words;
    this.empty.hidden = shown > 0;
    if (shown > 0) return;
    const isWithdrawn = this.cells.size > 0 && [...this.cells.values()].every((cell) => cell.withdrawn);
    const kind = !this.complete ? "loading" : isWithdrawn ? "withdrawn" : this.cells.size > 0 ? "filtered" : "none";
    if (this.empty.dataset.kind === kind) return;
    this.empty.dataset.kind = kind;
    if (kind === "loading") return replaceChildren(this.empty, skeleton(4, "Loading the images"));
    if (kind === "withdrawn") return replaceChildren(this.empty, stateBox({ kind: "empty", title: "All images of this slide are withdrawn", text: "They are in no figure. Each can be brought back from its own page.", action: { label: "Show them", run: () => this.filter({ decisions: new Set(["withdrawn"]) }) } }));
    replaceChildren(this.empty, kind === "filtered"
      ? stateBox({ kind: "empty", title: "No image passes these filters", text: "The slide has images that are left out by them.", action: { label: "Show all images", run: () => this.clearFilters() } })
      : stateBox({ kind: "empty", title: "No image of this slide is answered yet", text: "Answers appear here as they come. What waits, and why, stands above; how fast answers come is on the health page.", action: { label: "To health", href: this.context.href("/health") } }));
  }

  drawFigure() {
    const { answer } = this;
    const figure = answer.figure ?? NO_FIGURE;
    replaceChildren(this.found, finding(figure, answer.unanswered));
    const entry = (words, value, { kind = "", title = null, test = null } = {}) => el("div", { class: `figure ${kind}`, title }, el("dt", {}, words), el("dd", { "data-test": test }, value));
    const warn = (count, kind) => (count > 0 ? kind : "");
    replaceChildren(
      this.figures,
      el("div", { class: "figure figure-wide" }, el("dt", {}, "Parasitemia, 95 % Wilson interval ", this.help), el("dd", { "data-test": "figure-parasitemia" }, parasitemia(figure))),
      entry("Cells", format.count(figure.cells), { test: "figure-cells" }),
      entry("Positives", format.count(figure.positives), { kind: warn(figure.positives, "is-positive"), test: "figure-positives" }),
      entry("Needs review", format.count(figure.needs_review), { kind: warn(figure.needs_review, "is-review"), test: "figure-needs-review" }),
      entry("No cell", format.count(figure.outliers), { title: DECISIONS.outlier.help, test: "figure-outliers" }),
      entry("Rejected", format.count(figure.rejected), { title: DECISIONS.rejected.help, test: "figure-rejected" }),
      entry("Unanswered", format.count(answer.unanswered), { kind: warn(answer.unanswered, "is-review"), title: `of ${format.plural(answer.uploads, "upload")}`, test: "figure-unanswered" }),
      figure.withdrawn > 0 ? entry("Withdrawn", format.count(figure.withdrawn), { title: "images that a person took out of what counts; they are in no other number", test: "figure-withdrawn" }) : null,
      figure.duplicates > 0 ? entry("Same bytes", format.count(figure.duplicates), { kind: "is-review", title: "images that are the same bytes as another one of this slide; they count unless they are withdrawn", test: "figure-duplicates" }) : null,
      answer.not_in_bucket > 0 ? entry("Not in the bucket", format.count(answer.not_in_bucket), { kind: "is-review", title: "images that count and were moved or deleted; withdraw them if they shall not", test: "figure-not-in-bucket" }) : null,
      entry("Reviewed", `${format.count(figure.reviewed)}${figure.corrected > 0 ? `, ${format.count(figure.corrected)} corrected` : ""}`, { test: "figure-reviewed" }),
      entry("Last activity", answer.last_activity_at ? el("time", { datetime: answer.last_activity_at, title: format.time(answer.last_activity_at) }, format.relative(answer.last_activity_at)) : "–"),
    );
  }

  drawUnanswered() {
    const { unanswered, unanswered_images: images } = this.answer;
    this.unanswered.hidden = unanswered === 0;
    if (unanswered === 0) return;
    const rows = images.map((image) => el("tr", {},
      el("th", { scope: "row", class: "slide-name" }, image.key),
      el("td", { class: "nowrap" }, el("time", { datetime: image.uploaded_at, title: format.time(image.uploaded_at) }, format.relative(image.uploaded_at))),
      el("td", { class: "number" }, format.bytes(image.size_bytes)),
      el("td", {}, image.reason ? el("span", { class: "decision decision-review" }, icon("warning"), el("span", {}, image.reason)) : "waits for an answer")));
    const summary = el("summary", {}, icon("warning"), el("strong", {}, `${format.plural(unanswered, "image has", "images have")} no answer yet`), el("span", { class: "quiet" }, "which, and why"));
    const rest = unanswered - images.length;
    const focused = this.unanswered.contains(document.activeElement);
    replaceChildren(this.unanswered, summary,
      el("div", { class: "unanswered-list", tabindex: 0, role: "region", "aria-label": "Images without an answer" }, el("table", {},
        el("thead", {}, el("tr", {}, ["Image", "Uploaded", "Size", "Why"].map((words, index) => el("th", { scope: "col", class: index === 2 ? "number" : null }, words)))),
        el("tbody", {}, rows))),
      rest > 0 ? el("p", { class: "quiet panel-body" }, `and ${format.count(rest)} more`) : null);
    if (focused) summary.focus();
  }
}
