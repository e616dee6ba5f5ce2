// Thousands of thumbnails of which only those in view are in the document, moved through by arrow keys.
//
// Asks for links and images only of what is in view. Invariant: the tile with the focus stays in the document however
// far it is scrolled away, so that the focus is never lost.

import { DECISIONS, decisionOf, el, focusedIn, format, icon, links, nameOf, replaceChildren } from "./core.js";

/** Tile widths by name, CSS pixels. */
export const SIZES = { small: 96, medium: 140, large: 220 };

/** Height of the caption below the picture, and the gap between tiles, CSS pixels. */
const CAPTION = 42;
const GAP = 8;

/** Rows kept ready above and below what is seen. */
const OVERSCAN = 2;

/** Tries for a picture that does not load; the first fails where a link has just expired. */
const PICTURE_TRIES = 2;

/** A small mark in a caption: an icon, and words for who cannot see it. */
function mark(picture, words, kind, text = null) {
  return el("span", { class: `thumb-mark ${kind}` }, icon(picture), text ? el("span", { "aria-hidden": "true" }, text) : null, el("span", { class: "visually-hidden" }, `, ${words}`));
}

/** A gallery in `root`; `hrefOf(cell)` is where a tile leads. */
export class Gallery {
  constructor(root, { signal, hrefOf, size }) {
    this.root = root;
    this.signal = signal;
    this.hrefOf = hrefOf;
    this.size = size;
    this.cells = [];
    /** Key to `{root, cell, abort}`: what is in the document. */
    this.tiles = new Map();
    /** Key of the one tile that Tab reaches. */
    this.active = null;
    /** Pixels at the top of the window that something covers. */
    this.covered = () => 0;
    root.classList.add("gallery");
    root.setAttribute("role", "list");
    root.addEventListener("keydown", (event) => this.#move(event));
    root.addEventListener("focusin", (event) => {
      const key = event.target.closest("[data-key]")?.dataset.key;
      if (key !== undefined && key !== this.active) {
        this.active = key;
        this.#layOut();
      }
    });
    const soon = () => { this.frame ??= requestAnimationFrame(() => { this.frame = null; this.#layOut(); }); };
    addEventListener("scroll", soon, { passive: true, signal });
    addEventListener("resize", soon, { signal });
    const observer = new ResizeObserver(soon);
    observer.observe(root);
    signal.addEventListener("abort", () => {
      observer.disconnect();
      cancelAnimationFrame(this.frame);
      for (const tile of this.tiles.values()) tile.abort.abort();
    });
  }

  /** Shows `cells` in their order. */
  show(cells) {
    this.cells = cells;
    this.indexes = new Map(cells.map((cell, index) => [cell.key, index]));
    if (!this.indexes.has(this.active)) this.active = cells[0]?.key ?? null;
    this.#layOut();
  }

  /** Changes the width of tiles, keeping what is at the top in view. */
  resize(size) {
    const { columns, row } = this.#grid();
    const top = Math.max(0, Math.floor(-this.root.getBoundingClientRect().top / row)) * columns;
    this.size = size;
    this.#layOut();
    if (top > 0 && this.cells[top]) this.#scrollTo(top);
  }

  /** Brings the tile of `key` into view, if it is shown; with `focus` it gets the focus. */
  reveal(key, focus = true) {
    const index = this.indexes?.get(key);
    if (index === undefined || !this.root.isConnected) return false;
    this.active = key;
    this.#scrollTo(index);
    this.#layOut();
    if (focus) this.tiles.get(key)?.root.querySelector("a").focus({ preventScroll: true });
    return true;
  }

  #grid() {
    const width = this.root.clientWidth || 1;
    const wanted = SIZES[this.size] ?? SIZES.medium;
    const columns = Math.max(1, Math.floor((width + GAP) / (wanted + GAP)));
    const tile = (width - GAP * (columns - 1)) / columns;
    return { columns, tile, row: tile + CAPTION + GAP };
  }

  #scrollTo(index) {
    const { columns, row } = this.#grid();
    const top = this.root.getBoundingClientRect().top + scrollY + Math.floor(index / columns) * row;
    const covered = this.covered();
    if (top < scrollY + covered) scrollTo(0, top - covered - GAP);
    else if (top + row > scrollY + innerHeight) scrollTo(0, top + row - innerHeight + GAP);
  }

  #layOut() {
    // Not in the document yet, it has no width; being put there calls this again.
    if (this.signal.aborted || !this.root.isConnected) return;
    const { columns, tile, row } = this.#grid();
    const rows = Math.ceil(this.cells.length / columns);
    this.root.style.height = `${Math.max(0, rows * row - GAP)}px`;
    const { top } = this.root.getBoundingClientRect();
    const first = Math.max(0, Math.floor(-top / row) - OVERSCAN) * columns;
    const last = Math.min(this.cells.length, (Math.ceil((innerHeight - top) / row) + OVERSCAN) * columns);
    const wanted = new Set();
    for (let index = first; index < last; index += 1) wanted.add(index);
    if (this.active !== null) wanted.add(this.indexes.get(this.active));
    const keys = new Set([...wanted].map((index) => this.cells[index].key));
    for (const [key, shown] of this.tiles) {
      if (keys.has(key)) continue;
      shown.abort.abort();
      shown.root.remove();
      this.tiles.delete(key);
    }
    // In the order of the list, so that reading by a screen reader follows what is seen.
    let after = null;
    for (const index of [...wanted].sort((a, b) => a - b)) {
      const cell = this.cells[index];
      const shown = this.#tile(cell);
      const { style } = shown.root;
      style.width = `${tile}px`;
      style.height = `${tile + CAPTION}px`;
      style.transform = `translate(${(index % columns) * (tile + GAP)}px, ${Math.floor(index / columns) * row}px)`;
      shown.root.setAttribute("aria-posinset", String(index + 1));
      shown.root.setAttribute("aria-setsize", String(this.cells.length));
      shown.root.querySelector("a").tabIndex = cell.key === this.active ? 0 : -1;
      const place = after ? after.nextSibling : this.root.firstChild;
      // A node that is moved loses the focus: only what is in the wrong place is.
      if (place !== shown.root) this.#insert(shown.root, place);
      after = shown.root;
    }
  }

  #insert(node, before) {
    const focused = focusedIn(node);
    this.root.insertBefore(node, before);
    focused?.focus({ preventScroll: true });
  }

  #tile(cell) {
    const known = this.tiles.get(cell.key);
    if (known && known.cell === cell) return known;
    if (known && known.cell.result_id === cell.result_id) {
      known.cell = cell;
      this.#caption(known);
      return known;
    }
    if (known) {
      // Another answer, perhaps of another image under the same key: the picture is asked for anew.
      known.abort.abort();
      known.abort = new AbortController();
      known.cell = cell;
      this.#caption(known);
      this.#picture(known);
      return known;
    }
    const link = el("a", { class: "thumb", href: this.hrefOf(cell), "data-test": "tile" });
    const root = el("div", { class: "thumb-place", role: "listitem", "data-key": cell.key }, link);
    const shown = { root, link, cell, abort: new AbortController(), frame: el("span", { class: "thumb-picture" }), words: el("span", { class: "thumb-words" }) };
    link.append(shown.frame, shown.words);
    this.tiles.set(cell.key, shown);
    this.#caption(shown);
    this.#picture(shown);
    return shown;
  }

  #caption({ link, cell, words }) {
    const name = decisionOf(cell);
    const decision = DECISIONS[name].word;
    const isCell = cell.label && name !== "outlier" && name !== "withdrawn";
    const verdict = cell.verdict ? (cell.verdict === cell.label ? "confirmed" : `corrected to ${cell.verdict}`) : null;
    const doubtful = cell.needs_review && name !== "review" ? "needs a look" : null;
    link.className = `thumb thumb-${name}`;
    link.href = this.hrefOf(cell);
    link.title = [cell.key, decision, doubtful, cell.isTwin ? "the same bytes as another image of the slide" : null, verdict, `uploaded ${format.time(cell.uploaded_at)}`].filter(Boolean).join("\n");
    replaceChildren(
      words,
      el("span", { class: `thumb-decision decision-${name}` },
        icon(name),
        isCell ? el("span", { class: "visually-hidden" }, `${decision}: `) : null,
        el("span", { class: "thumb-label" }, isCell ? cell.label : decision),
        isCell ? el("span", { class: "thumb-confidence" }, format.probability(cell.confidence)) : null),
      el("span", { class: "thumb-file" },
        el("span", { class: "thumb-name" }, nameOf(cell.key)),
        verdict ? mark(cell.verdict === cell.label ? "check" : "retry", verdict, cell.verdict === cell.label ? "" : "is-corrected", cell.verdict === cell.label ? null : cell.verdict) : null,
        cell.isTwin ? mark("copy", "the same bytes as another image of the slide", "decision-review") : null,
        doubtful && !verdict ? mark("review", doubtful, "decision-review") : null),
    );
  }

  async #picture(shown) {
    const { cell, frame, abort } = shown;
    const wanted = { key: cell.key, revision: cell.result_id };
    for (let turn = 0; turn < PICTURE_TRIES; turn += 1) {
      const [link] = await links.of([wanted], "thumbnail", { signal: abort.signal });
      if (abort.signal.aborted) return;
      if (!link.url) {
        replaceChildren(frame, el("span", { class: "thumb-missing" }, link.lost ? "picture on its way" : "no preview"));
        frame.title = link.problem;
        if (!link.lost) return;
        // The server is away: asked again as long as the tile is in view.
        await new Promise((resolve) => setTimeout(resolve, 3_000));
        if (abort.signal.aborted) return;
        turn -= 1;
        continue;
      }
      const picture = el("img", { alt: "", decoding: "async", draggable: "false" });
      const loaded = await new Promise((resolve) => {
        picture.onload = () => resolve(true);
        picture.onerror = () => resolve(false);
        picture.src = link.url;
      });
      if (abort.signal.aborted) return;
      if (loaded) {
        frame.replaceChildren(picture);
        return;
      }
      links.forget(wanted, "thumbnail");
    }
    replaceChildren(frame, el("span", { class: "thumb-missing" }, "no preview"));
  }

  #move(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !event.target.closest("[data-key]")) return;
    const { columns, row } = this.#grid();
    const page = Math.max(1, Math.floor((innerHeight * 0.8) / row)) * columns;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const from = this.indexes.get(this.active) ?? 0;
    let to = Math.min(this.cells.length - 1, Math.max(0, from + step));
    // Up in the first row and down in the last go nowhere instead of to its end.
    if (event.key === "ArrowUp" && from < columns) to = from;
    if (event.key === "ArrowDown" && from + columns >= this.cells.length && Math.floor(from / columns) === Math.floor((this.cells.length - 1) / columns)) to = from;
    this.reveal(this.cells[to].key);
  }
}
