// Uploads as people see them: the drop, the questions for a slide's name and for replacing, progress, what failed, and what was answered.
//
// Sends nothing itself (`upload_queue.js` does). Invariant: a file that was dropped is shown until it is stored or its
// reason was read, and an upload is not called done before its images are answered.

import { api, el, format, icon, replaceChildren, slideOf } from "./core.js";
import { finding } from "./figure.js";
import { askSlideName } from "./upload_questions.js";
import { filesOfDrop, filesOfPicker } from "./upload_files.js";
import { UploadQueue } from "./upload_queue.js";

const DRAW_EVERY_MS = 150;
const ANSWERS_EVERY_MS = 1_000;

/** Slides of one question for what is unanswered. */
const SLIDES_AT_ONCE = 25;

/** Files of each state that are listed; the rest is counted. */
const LISTED = { failed: 200, held: 50, refused: 200, sending: 20, waiting: 20, cancelled: 20, done: 30 };

const WORDS = { held: "there already", waiting: "waits", sending: "sending", done: "stored", failed: "failed", refused: "refused", cancelled: "cancelled" };
const STATE_ICONS = { held: "warning", waiting: "neutral", sending: "upload", done: "check", failed: "warning", refused: "rejected", cancelled: "close" };

/** The uploads of this page; dispatches `answered` when images of a slide were answered. */
class Uploads extends EventTarget {
  queue = new UploadQueue();
  /** Slide to `{stored: Set of names, answered, figure, seenBefore}`. */
  slides = new Map();
  hidden = 0;
  unreadable = [];
  #rows = new Map();
  #willDraw = false;
  #wasBusy = false;

  /** Makes the panel and the whole page a place to drop on; answers the header's button. */
  start(shared) {
    this.shared = shared;
    this.#build();
    this.queue.addEventListener("change", () => this.#drawSoon());
    this.queue.addEventListener("stored", (/** @type {CustomEvent} */ { detail: item }) => {
      const slide = slideOf(item.name);
      const known = this.slides.get(slide) ?? { stored: new Set(), answered: 0, figure: null };
      known.stored.add(item.name);
      known.figure = null;
      this.slides.delete(slide);
      this.slides.set(slide, known);
    });
    shared.every(ANSWERS_EVERY_MS, () => this.#countAnswers());
    addEventListener("beforeunload", (event) => {
      if (this.queue.isBusy || this.queue.items.some((item) => item.state === "held")) event.preventDefault();
    });
    this.#takeDrops();
    return this.button;
  }

  /** Whether the object store is the embedded one. */
  get isLocal() {
    return ["127.0.0.1", "localhost", "[::1]"].includes(new URL(this.shared.settings.s3_origin).hostname);
  }

  /** Another view is shown: the panel makes room, unless it asks something. The header's button goes on telling. */
  makeRoom() {
    if (this.#count().held === 0) this.#open(false);
  }

  /** The command that uploads a folder from a terminal. */
  command() {
    const { s3_origin: origin, input_bucket: bucket } = this.shared.settings;
    return `aws ${this.isLocal ? `--endpoint-url ${origin} ` : ""}s3 cp --recursive slide-001/ s3://${bucket}/slide-001/`;
  }

  /** A line that invites to drop, with pickers for those who do not. */
  dropZone() {
    return el(
      "div",
      { class: "drop-zone", "data-test": "drop-zone" },
      el("span", { class: "field" }, icon("upload"), el("span", {}, el("strong", {}, "Drop a folder of images anywhere on this page."), " The folder is the slide.")),
      el("span", { class: "field" }, this.#pickers()),
    );
  }

  pickFolder() {
    this.folderInput.click();
  }

  #pickers() {
    return [
      el("button", { class: "button small", type: "button", "data-test": "pick-folder", onclick: () => this.pickFolder() }, icon("folder"), "Choose a folder"),
      el("button", { class: "button small", type: "button", "data-test": "pick-files", onclick: () => this.fileInput.click() }, icon("file"), "Choose files"),
    ];
  }

  #build() {
    const picker = (attributes) => {
      const input = el("input", { type: "file", multiple: true, hidden: true, tabindex: -1, "aria-hidden": "true", ...attributes });
      input.addEventListener("change", () => {
        const found = filesOfPicker(input.files);
        // Emptied, so that the same folder can be chosen again.
        input.value = "";
        this.take(found);
      });
      return input;
    };
    this.folderInput = picker({ webkitdirectory: true, "data-test": "folder-input" });
    this.fileInput = picker({ accept: this.shared.settings.extensions.join(","), "data-test": "file-input" });
    this.label = el("span", {}, "Upload");
    this.button = el("button", { class: "button primary", type: "button", "aria-expanded": "false", "aria-controls": "uploads", "data-test": "upload-button" }, icon("upload"), this.label);
    this.button.addEventListener("click", () => this.#open(this.panel.hidden));
    this.heading = el("h2", { "data-test": "upload-summary" }, "Uploads");
    this.bar = el("progress", { max: 1, value: 0, "aria-label": "Bytes uploaded", hidden: true });
    this.pauseButton = el("button", { class: "button small", type: "button", "data-test": "upload-pause", onclick: () => (this.queue.paused ? this.queue.resume() : this.queue.pause()) });
    this.cancelButton = el("button", { class: "button small", type: "button", "data-test": "upload-cancel", onclick: () => this.queue.cancel() }, icon("close"), "Cancel");
    this.retryButton = el("button", { class: "button small", type: "button", "data-test": "upload-retry", onclick: () => this.queue.retry() }, icon("retry"), el("span", {}));
    this.clearButton = el("button", { class: "button small", type: "button", "data-test": "upload-clear", onclick: () => this.#clear() }, "Clear the list");
    this.notes = el("ul", { class: "upload-notes" });
    this.questionWords = el("p", {});
    this.question = el(
      "div",
      { class: "upload-question", role: "group", "aria-label": "Images that are there already", hidden: true, "data-test": "upload-replace" },
      this.questionWords,
      el("div", { class: "toolbar" },
        el("button", { class: "button small", type: "button", "data-test": "replace-yes", onclick: () => this.#decide(true) }, "Replace them"),
        el("button", { class: "button small", type: "button", "data-test": "replace-no", onclick: () => this.#decide(false) }, "Leave them as they are")),
    );
    this.slideList = el("ul", { class: "upload-slides", "data-test": "upload-slides" });
    this.list = el("ul", { class: "upload-files", "data-test": "upload-files", tabindex: 0, "aria-label": "Files" });
    this.rest = el("p", { class: "quiet small-text upload-rest" });
    this.panel = el(
      "section",
      { class: "uploads", id: "uploads", "aria-label": "Uploads", hidden: true, "data-test": "upload-panel" },
      el("div", { class: "uploads-head" }, this.heading, el("button", { class: "button plain icon-only small", type: "button", "aria-label": "Hide the uploads", onclick: () => { this.#open(false); this.button.focus(); } }, icon("down"))),
      this.bar,
      el("div", { class: "toolbar uploads-tools" }, this.#pickers(), this.pauseButton, this.cancelButton, this.retryButton, this.clearButton),
      this.notes,
      this.question,
      this.slideList,
      this.list,
      this.rest,
    );
    this.overlay = el("div", { class: "drop-overlay", hidden: true, "aria-hidden": "true", "data-test": "drop-overlay" }, el("div", {}, icon("upload"), el("p", {}, "Drop to upload"), el("p", { class: "quiet" }, "A folder becomes a slide")));
    document.body.append(this.folderInput, this.fileInput, this.panel, this.overlay);
    this.#draw();
  }

  #open(open) {
    this.panel.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
  }

  /** The whole page takes drops, so that a folder that misses a target is not opened by the browser instead. */
  #takeDrops() {
    let depth = 0;
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    const show = (visible) => { this.overlay.hidden = !visible; };
    addEventListener("dragenter", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      depth += 1;
      show(true);
    });
    addEventListener("dragleave", (event) => {
      if (!hasFiles(event)) return;
      depth = Math.max(0, depth - 1);
      if (depth === 0) show(false);
    });
    addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
    });
    addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      depth = 0;
      show(false);
      filesOfDrop(event.dataTransfer).then((found) => this.take(found));
    });
  }

  /** Takes what was dropped or chosen: asks what must be asked, then sends. */
  async take(found) {
    this.hidden += found.hidden;
    this.unreadable.push(...found.unreadable);
    const files = found.folders.map(({ file, path }) => ({ file, name: path }));
    if (found.loose.length > 0) {
      // On a slide's page, files are most likely of that slide.
      const offer = location.pathname === "/slide" ? new URLSearchParams(location.search).get("name") : null;
      const slide = await askSlideName(found.loose.length, offer);
      if (slide !== null) files.push(...found.loose.map(({ file, path }) => ({ file, name: `${slide}/${path}` })));
    }
    if (files.length === 0) {
      if (found.hidden + found.unreadable.length > 0) this.#open(true);
      this.#draw();
      return;
    }
    this.#open(true);
    this.queue.add(files);
    this.shared.announce(`${format.plural(files.length, "file")} on the way`);
  }

  /** Asks how many of the stored images are answered, and for the figure when all are. */
  async #countAnswers() {
    const open = [...this.slides].filter(([, known]) => known.answered < known.stored.size || known.figure === null);
    if (open.length === 0) return;
    const stage = this.shared.settings.stages[0];
    const asked = open.slice(-SLIDES_AT_ONCE);
    const stored = new Map(asked.map(([slide, known]) => [slide, known.stored.size]));
    const started = performance.now();
    const { slides } = await api.get("/api/slides/unanswered", { stage, slide: asked.map(([slide]) => slide) });
    let more = false;
    for (const { slide, unanswered } of slides) {
      const known = this.slides.get(slide);
      const answered = stored.get(slide) - Math.min(stored.get(slide), unanswered);
      more ||= answered !== known.answered;
      known.answered = answered;
      if (answered === known.stored.size && known.figure === null) await this.#settle(slide, known, stage);
    }
    if (more) this.dispatchEvent(new Event("answered"));
    this.#drawSoon();
    // A folder of thousands takes long to compare: such a question is put more seldom.
    const took = performance.now() - started;
    if (took > 200) await new Promise((resolve) => setTimeout(resolve, 4 * took));
  }

  async #settle(slide, known, stage) {
    const { figure } = await api.get("/api/slide", { stage, slide });
    known.figure = figure;
    if (!this.queue.isBusy) {
      const positives = figure.positives > 0 ? `, ${format.plural(figure.positives, "positive cell")} on the slide` : "";
      this.shared.announce(`${slide}: all ${format.plural(known.stored.size, "image")} answered${positives}`);
    }
  }

  #decide(replace) {
    this.queue.decide(replace);
    this.#focusHeading();
  }

  #clear() {
    this.queue.items = this.queue.items.filter((item) => item.state === "waiting" || item.state === "sending");
    this.slides.clear();
    this.hidden = 0;
    this.unreadable = [];
    this.#draw();
    this.#focusHeading();
  }

  /** Where the focus goes when the button that had it goes away. */
  #focusHeading() {
    this.heading.tabIndex = -1;
    this.heading.focus();
  }

  #drawSoon() {
    if (this.#willDraw) return;
    this.#willDraw = true;
    setTimeout(() => {
      this.#willDraw = false;
      this.#draw();
    }, DRAW_EVERY_MS);
  }

  #count() {
    const count = { all: 0, held: 0, waiting: 0, sending: 0, done: 0, failed: 0, refused: 0, cancelled: 0, bytes: 0, sent: 0 };
    for (const item of this.queue.items) {
      count.all += 1;
      count[item.state] += 1;
      if (["held", "refused", "cancelled"].includes(item.state)) continue;
      count.bytes += item.size;
      count.sent += item.state === "done" ? item.size : item.sent;
    }
    return count;
  }

  #draw() {
    const { queue } = this;
    const count = this.#count();
    const busy = count.waiting + count.sending > 0;
    const expected = count.all - count.held - count.refused - count.cancelled;
    const percent = count.bytes > 0 ? Math.floor((100 * count.sent) / count.bytes) : 0;
    this.bar.hidden = !busy;
    this.bar.value = count.bytes > 0 ? count.sent / count.bytes : 0;
    this.label.textContent = this.#buttonWords(count, busy, percent);
    this.heading.textContent = this.#summary(count, expected, busy);
    this.pauseButton.hidden = !busy;
    replaceChildren(this.pauseButton, icon(queue.paused ? "play" : "pause"), queue.paused ? "Go on" : "Pause");
    this.cancelButton.hidden = !busy;
    this.retryButton.hidden = count.failed === 0;
    this.retryButton.querySelector("span").textContent = `Try ${format.plural(count.failed, "failed file")} again`;
    this.question.hidden = count.held === 0;
    this.questionWords.textContent = `${format.plural(count.held, "image is", "images are")} there already. Replacing has them answered anew; earlier answers stay in each image's history.`;
    this.clearButton.hidden = busy || count.held > 0 || (count.all === 0 && this.hidden + this.unreadable.length === 0);
    this.#drawNotes(count);
    this.#drawSlides();
    this.#drawFiles(count);
    if (this.#wasBusy && !busy) {
      const problems = [count.held && `${count.held} there already: choose whether to replace them`, count.failed && `${count.failed} failed`, count.refused && `${count.refused} refused`].filter(Boolean);
      this.shared.announce(`${count.done} of ${format.plural(count.all, "file")} uploaded${problems.length > 0 ? `, ${problems.join(", ")}` : ""}`);
    }
    this.#wasBusy = busy;
  }

  #buttonWords(count, busy, percent) {
    if (busy) return this.queue.paused ? "Upload paused" : `Uploading ${Math.min(99, percent)} %`;
    if (count.held > 0) return `Upload: ${format.count(count.held)} there already`;
    const missing = count.failed + count.refused;
    return missing > 0 ? `Upload: ${format.count(missing)} not uploaded` : "Upload";
  }

  #summary(count, expected, busy) {
    if (count.all === 0) return "Uploads";
    const files = `${format.count(count.done)} of ${format.plural(expected, "file")}`;
    const bytes = `${format.bytes(count.sent)} of ${format.bytes(count.bytes)}`;
    if (busy && this.queue.serverAway) return `Waits for the server: ${files} uploaded`;
    if (busy) return `${this.queue.paused ? "Paused" : "Uploading"}: ${files}, ${bytes}`;
    return `Uploaded ${files}, ${bytes}`;
  }

  #drawNotes(count) {
    const notes = [
      count.failed > 0 ? ["warning", `${format.plural(count.failed, "file")} could not be uploaded and ${count.failed === 1 ? "has" : "have"} no answer: see below, then try again.`] : null,
      count.refused > 0 ? ["rejected", `${format.plural(count.refused, "file was", "files were")} refused and not uploaded: see the reasons below.`] : null,
      this.unreadable.length > 0 ? ["warning", `Could not be read from the disk: ${this.unreadable.slice(0, 3).join(", ")}${this.unreadable.length > 3 ? ` and ${this.unreadable.length - 3} more` : ""}.`] : null,
      this.hidden > 0 ? ["file", `${format.plural(this.hidden, "hidden file was", "hidden files were")} left out.`] : null,
    ].filter(Boolean);
    const words = JSON.stringify(notes);
    if (this.notes.dataset.words === words) return;
    this.notes.dataset.words = words;
    replaceChildren(this.notes, notes.map(([picture, text]) => el("li", { class: picture === "file" ? "quiet" : "urgent" }, icon(picture), el("span", {}, text))));
  }

  #drawSlides() {
    const rows = [...this.slides].reverse().slice(0, 8).map(([slide, known]) => {
      const all = known.stored.size;
      const done = known.answered === all && known.figure !== null;
      return el(
        "li",
        { "data-test": "upload-slide" },
        el("a", { href: this.shared.href("/slide", { name: slide, stage: this.shared.settings.stages[0] }) }, slide || "(no folder)"),
        el("span", { class: "field" }, done ? finding(known.figure) : null, el("span", { "data-test": "answered" }, `${format.count(known.answered)} of ${format.count(all)} answered`)),
        done ? null : el("progress", { max: all, value: known.answered, "aria-label": `Answered images of ${slide}` }),
      );
    });
    if (this.slides.size > 8) rows.push(el("li", { class: "quiet" }, `and ${format.plural(this.slides.size - 8, "more slide")}`));
    const words = rows.map((row) => row.textContent).join("\n");
    if (this.slideList.dataset.words === words) return;
    this.slideList.dataset.words = words;
    const focused = this.slideList.contains(document.activeElement) ? document.activeElement.textContent : null;
    replaceChildren(this.slideList, rows);
    if (focused !== null) [...this.slideList.querySelectorAll("a")].find((link) => link.textContent === focused)?.focus();
  }

  #drawFiles(count) {
    const listed = [];
    for (const [state, most] of Object.entries(LISTED)) {
      let items = this.queue.items.filter((item) => item.state === state);
      if (state === "done") items = items.slice(-most).reverse();
      listed.push(...items.slice(0, most));
    }
    const wanted = new Set(listed);
    for (const [item, row] of this.#rows) {
      if (wanted.has(item)) continue;
      row.root.remove();
      this.#rows.delete(item);
    }
    listed.forEach((item, index) => {
      const row = this.#rows.get(item) ?? this.#makeFile(item);
      this.#drawFile(item, row);
      const there = this.list.children[index];
      if (there !== row.root) this.list.insertBefore(row.root, there ?? null);
    });
    this.list.hidden = listed.length === 0;
    const rest = count.all - listed.length;
    this.rest.hidden = rest === 0;
    this.rest.textContent = `and ${format.plural(rest, "more file")}: ${format.count(count.waiting)} waiting, ${format.count(count.done)} stored`;
  }

  #makeFile(item) {
    const row = {
      state: el("span", { class: "upload-state" }),
      detail: el("p", { class: "upload-detail", hidden: true }),
      bar: el("progress", { max: 1, value: 0, "aria-label": `Upload of ${item.name}`, hidden: true }),
      again: el("button", { class: "button small", type: "button", hidden: true, "aria-label": `Try ${item.name} again`, onclick: () => this.queue.retry(item) }, icon("retry"), "Try again"),
    };
    row.root = el(
      "li",
      { "data-test": "upload-file" },
      el("div", { class: "upload-line" }, el("span", { class: "upload-name", title: item.name }, item.name), el("span", { class: "quiet nowrap" }, format.bytes(item.size)), row.state, row.again),
      row.bar,
      row.detail,
    );
    this.#rows.set(item, row);
    return row;
  }

  #drawFile(item, row) {
    if (row.root.dataset.state !== item.state) {
      row.root.dataset.state = item.state;
      replaceChildren(row.state, icon(STATE_ICONS[item.state]), WORDS[item.state]);
      row.again.hidden = item.state !== "failed";
      row.bar.hidden = item.state !== "sending";
    }
    if (item.state === "sending") row.bar.value = item.size > 0 ? item.sent / item.size : 0;
    if (row.detail.textContent !== item.detail) {
      row.detail.textContent = item.detail;
      row.detail.hidden = item.detail === "";
    }
  }
}

export const uploads = new Uploads();
