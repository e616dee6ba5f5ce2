// The picture of the review queue: the next ones are loaded ahead, each shown in the turn in which it is asked for.
//
// Never leaves a picture in sight beside another image's answer. Invariant: `isSeen` is true only while the picture of
// the image that was shown last can be seen.

import { el, nameOf } from "./core.js";
import { wordsOf } from "./answer.js";
import { sourceOf } from "./picture.js";
import { createViewer } from "./viewer.js";

export class ReviewPicture {
  /** `changed()` is called when a picture came in sight. */
  constructor(signal, changed) {
    this.signal = signal;
    this.changed = changed;
    this.isSeen = false;
    this.record = null;
    this.viewer = null;
    /** The viewer for tiles and its promise, once an image needed them. */
    this.deep = null;
    this.deepViewer = null;
    this.element = el("div", { class: "review-stage" });
    /** Result id to a promise of the source, with `ready` once it is there. */
    this.sources = new Map();
  }

  /** Makes the viewer. */
  async start() {
    this.simple = await createViewer({ simple: true });
    this.#use(this.simple);
    this.signal.addEventListener("abort", () => { this.simple.destroy(); this.deep?.destroy(); });
  }

  /** Loads the pictures of `records`, and forgets all others. */
  prepare(records) {
    const ids = new Set(records.map((record) => record.result_id));
    for (const id of this.sources.keys()) if (!ids.has(id)) this.sources.delete(id);
    for (const record of records) {
      if (!this.sources.has(record.result_id)) this.#load(record);
    }
  }

  /** Covers what is shown: the next picture is not there yet. */
  clear() {
    this.isSeen = false;
    this.record = null;
    this.element.classList.add("is-waiting");
    this.element.classList.remove("is-failed");
    this.viewer.say(null);
  }

  /** Shows the picture of `record`, at once if it is prepared. */
  async show(record) {
    this.clear();
    this.record = record;
    const isCurrent = () => !this.signal.aborted && this.record === record;
    try {
      const prepared = this.sources.get(record.result_id) ?? this.#load(record);
      const source = prepared.ready ?? await prepared.promise;
      if (!isCurrent()) return;
      if (source.deepZoom) this.deep ??= await this.deepViewer;
      if (!isCurrent()) return;
      this.#use(source.deepZoom ? this.deep : this.simple);
      const shown = this.viewer.show(source, `Image ${nameOf(record.image.key)}: ${wordsOf(record)}`);
      if (source.picture || source.overview) this.#seen();
      await shown;
      if (!isCurrent()) return;
      this.#seen();
      if (source.deepZoom) this.viewer.sayWithoutLibrary(source);
    } catch (error) {
      if (!isCurrent()) return;
      this.element.classList.add("is-failed");
      const again = el("button", { class: "button small", type: "button", "data-test": "review-image-again", onclick: () => { this.sources.delete(record.result_id); this.show(record); } }, "Try again");
      this.viewer.say(`The image could not be shown, so no verdict can be given: ${error.detail ?? error.message}. Skip it (S), or try again.`, again);
    }
  }

  #load(record) {
    const prepared = { ready: null };
    prepared.promise = sourceOf(record.image, { signal: this.signal }).then((source) => {
      prepared.ready = source;
      // The viewer for tiles is made before it is needed.
      if (source.deepZoom) this.deepViewer ??= createViewer();
      return source;
    });
    // Whoever shows it hears what is wrong.
    prepared.promise.catch(() => {});
    this.sources.set(record.result_id, prepared);
    return prepared;
  }

  #use(viewer) {
    if (viewer === this.viewer) return;
    this.viewer = viewer;
    this.element.replaceChildren(viewer.element);
  }

  #seen() {
    this.element.classList.remove("is-waiting");
    this.isSeen = true;
    this.changed();
  }
}
