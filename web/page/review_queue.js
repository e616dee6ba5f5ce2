// The images that need a human look, and the verdicts on their way to the server. No DOM.
//
// Never drops a verdict: it is sent, or is tried again until it is, or its image comes back with the reason. Invariant:
// every image is in one place: to look at, skipped, or done; the one being looked at is never exchanged under the
// reviewer's hand but by an undo.

import { api } from "./core.js";

/** Images of the first request, and of the look for new ones. */
const FIRST = 50;

/** Images of the requests that follow. */
const MORE = 200;

/** Images that are counted ahead. */
const COUNTED = 1_000;

/** New images stand behind those that are already loaded. */
const LOADED_AHEAD = 4;

/** Longest pause between two tries to send, ms. */
const LONGEST_PAUSE_MS = 30_000;

/** Where verdicts wait that could not be sent, should the page be closed. */
const STORAGE = "giemsa.unsent-reviews";

/** Verdicts of this page that the server does not have yet, whichever view is shown. */
const pending = new Set();

/** Verdicts of others who signed in at this browser: they wait until these do again, who alone can send them. */
let ofOthers = [];

const idOf = (record) => record.result_id;

/** Whether trying again can help: no answer, an answer of a failing server, or too many requests. */
const isPassing = (error) => error.status === 0 || error.status >= 500 || error.status === 429 || error.status === 408;

export class ReviewQueue extends EventTarget {
  /** `signedIn` is whom the server stores verdicts of, whatever they say; `null` if they say it themselves. */
  constructor({ stage, slide, signal, signedIn }) {
    super();
    this.stage = stage;
    this.slide = slide;
    this.signal = signal;
    this.signedIn = signedIn;
    this.items = [];
    this.skipped = [];
    this.done = [];
    this.cursor = null;
    this.isLoaded = false;
    this.known = new Set();
  }

  get current() { return this.items[0] ?? null; }

  /** Images that wait, and whether these are all. */
  get left() { return { count: this.items.length + this.skipped.length, isWhole: this.cursor === null }; }

  /** Verdicts that the server does not have yet. */
  get unsent() { return this.done.filter((entry) => entry.state !== "sent"); }

  /** Reads the first images; what was left unsent by a page that was closed is sent now. */
  async load() {
    this.#recover();
    const page = await this.#page(FIRST);
    this.cursor = page.next ?? null;
    this.items.push(...this.#unknown(page.results));
    this.isLoaded = true;
    this.#changed();
  }

  /** Reads on, so that it can be said how many there are. */
  async countAhead() {
    while (this.cursor !== null && this.items.length < COUNTED && !this.signal.aborted) {
      const page = await this.#page(MORE, this.cursor);
      this.cursor = page.next ?? null;
      this.items.push(...this.#unknown(page.results));
      this.#changed();
    }
  }

  /** Looks for images that came since, and takes the new answer of an image in the place of the old one. */
  async poll() {
    if (!this.isLoaded) return;
    if (this.cursor !== null && this.items.length < FIRST) await this.countAhead();
    const page = await this.#page(FIRST, undefined, { same: true });
    const fresh = this.#unknown(page.results);
    if (fresh.length === 0) return;
    const keys = new Set(fresh.map((record) => record.image.key));
    this.items = this.items.filter((record, index) => index === 0 || !keys.has(record.image.key));
    this.items.splice(LOADED_AHEAD, 0, ...fresh);
    this.#changed();
  }

  /** Notes the verdict on the current image and sends it; the next image is current at once. */
  decide({ action, label, note, reviewer }) {
    const record = this.items.shift();
    const body = { key: record.image.key, stage: this.stage, result_id: record.result_id, action, reviewer };
    if (action === "correct") body.label = label;
    if (note) body.note = note;
    const entry = { record, body, by: this.signedIn, label, state: "sending", problem: null, tries: 0, at: Date.now() };
    this.done.push(entry);
    this.#send(entry);
    this.#changed();
    return entry;
  }

  /** Puts the current image off to the end. */
  skip() {
    const record = this.items.shift();
    if (record) this.skipped.push(record);
    this.#changed();
  }

  /** Takes up the skipped images again. */
  resumeSkipped() {
    this.items.push(...this.skipped.splice(0));
    this.#changed();
  }

  /** Takes a verdict back, by default the last; its image is the current one again. Throws an `ApiError`. */
  async undo(entry = this.done.at(-1)) {
    if (!entry || entry.isUndoing) return null;
    entry.isUndoing = true;
    this.#changed();
    try {
      // What is on its way has to arrive first, or it would come after its own undo.
      await entry.sending;
      if (entry.state === "sent") {
        await api.post("/api/reviews/undo", { key: entry.body.key, reviewer: entry.body.reviewer });
      } else if (!this.done.includes(entry)) {
        return null;
      }
    } finally {
      entry.isUndoing = false;
      this.#changed();
    }
    this.done = this.done.filter((other) => other !== entry);
    pending.delete(entry);
    this.#keep();
    if (entry.record) this.items.unshift(entry.record);
    this.#changed();
    return entry;
  }

  /** Sends now what could not be sent. */
  retry() {
    clearTimeout(this.timer);
    this.timer = null;
    for (const entry of [...pending].filter((other) => other.state === "unsent")) this.#send(entry);
    this.#changed();
  }

  #send(entry) {
    entry.state = "sending";
    entry.tries += 1;
    pending.add(entry);
    // Not with the view's signal: a verdict is sent whatever the reviewer looks at next.
    entry.sending = api.post("/api/reviews", entry.body).then(
      () => {
        entry.state = "sent";
        entry.problem = null;
        pending.delete(entry);
      },
      (error) => {
        entry.problem = error.detail ?? String(error);
        entry.state = "unsent";
        return isPassing(error) ? this.#later(entry) : this.#comeBack(entry, error);
      },
    ).then(() => { this.#keep(); this.#changed(entry); });
  }

  #later(entry) {
    // It goes on when the view is left.
    this.timer ??= setTimeout(() => this.retry(), Math.min(LONGEST_PAUSE_MS, 1_000 * 2 ** entry.tries));
  }

  /** A verdict that the server will never take: its image is next again, as it is now. */
  async #comeBack(entry, error) {
    this.done = this.done.filter((other) => other !== entry);
    pending.delete(entry);
    let record = entry.record;
    try {
      const { results } = await api.get("/api/image", { key: entry.body.key });
      record = results.find((result) => result.stage === this.stage) ?? record;
    } catch {
      // The record that was judged has to do; sending it again says the same.
    }
    if (record) {
      this.known.add(idOf(record));
      this.items = this.items.filter((other, index) => index === 0 || idOf(other) !== idOf(record));
      this.items.splice(this.items.length > 0 ? 1 : 0, 0, record);
    }
    this.dispatchEvent(new CustomEvent("refused", { detail: { entry, error } }));
  }

  /** Verdicts that wait are kept beyond the page. */
  #keep() {
    const unsent = [...pending].filter((entry) => entry.state === "unsent").map(({ body, by }) => ({ body, by }));
    const verdicts = [...ofOthers, ...unsent];
    try {
      if (verdicts.length > 0) localStorage.setItem(STORAGE, JSON.stringify(verdicts));
      else localStorage.removeItem(STORAGE);
    } catch {
      // Storage is switched off or full: they are in this page, which warns before it is closed.
    }
  }

  /** Takes over what another view of this page or a page that was closed could not send. */
  #recover() {
    for (const entry of pending) {
      this.done.push(entry);
      this.known.add(entry.body.result_id);
    }
    if (pending.size > 0) return;
    let verdicts = [];
    try {
      verdicts = JSON.parse(localStorage.getItem(STORAGE) ?? "[]");
    } catch {
      // Unreadable: nothing of ours.
    }
    verdicts = Array.isArray(verdicts) ? verdicts.filter((verdict) => verdict?.body) : [];
    const isOwn = ({ by }) => !this.signedIn || by === this.signedIn;
    ofOthers = verdicts.filter((verdict) => !isOwn(verdict));
    for (const { body, by } of verdicts.filter(isOwn)) {
      const entry = { record: null, body, by, label: body.label ?? null, state: "unsent", problem: null, tries: 0, at: Date.now() };
      this.done.push(entry);
      this.known.add(body.result_id);
      this.#send(entry);
    }
  }

  #page(limit, cursor, options = {}) {
    return api.get("/api/review/queue", { stage: this.stage, slide: this.slide, limit, cursor }, { ...options, signal: this.signal });
  }

  #unknown(records) {
    const fresh = records.filter((record) => !this.known.has(idOf(record)));
    for (const record of fresh) this.known.add(idOf(record));
    return fresh;
  }

  #changed(entry = null) {
    this.dispatchEvent(new CustomEvent("change", { detail: { entry } }));
  }
}
