// Signed links to images and thumbnails, asked for in batches and kept until shortly before they expire.
//
// Never asks for a link that nobody waits for any more. Invariant: one request at a time for one image and kind.

import { api } from "./api.js";

/** Images of one request; the server makes missing thumbnails while it answers. */
const BATCH = 50;

/** Requests at the same time. */
const AT_ONCE = 3;

/** How long links are gathered before they are asked for, ms: about a frame of scrolling. */
const GATHER_MS = 20;

/** How long a request waits for thumbnails that are being made, ms: those that are there are not to wait for the others. */
const WAIT_MS = 1_000;

/** A link this close to its end is asked for anew, ms. */
const MARGIN_MS = 60_000;

/** Links kept; the oldest go first. */
const KEPT = 5_000;

/** Name to `{url, expiresAt}`. */
const kept = new Map();

/** Name to what is wanted and who waits for it. */
const waiting = new Map();

let timer = null;
let running = 0;

// `revision` tells an image from the one that replaced it under the same key, where no version is known.
const nameOf = (image, kind) => [kind, image.key, image.version_id ?? "", image.revision ?? ""].join("\n");

async function ask(kind, wanted) {
  const images = wanted.map(({ image }) => (image.version_id ? { key: image.key, version_id: image.version_id } : { key: image.key }));
  try {
    const answer = await api.post("/api/links", kind === "thumbnail" ? { images, kind, wait_ms: WAIT_MS } : { images, kind });
    wanted.forEach((entry, index) => {
      const link = answer.links[index];
      if (link?.url) {
        kept.set(entry.name, { url: link.url, expiresAt: Date.parse(link.expires_at) });
        if (kept.size > KEPT) kept.delete(kept.keys().next().value);
        entry.settle({ url: link.url, version_id: link.version_id ?? null });
      } else if (link?.pending) {
        // It is being made; another view may have asked for it again meanwhile.
        const other = waiting.get(entry.name);
        if (other) other.promise.then(entry.settle);
        else waiting.set(entry.name, entry);
      } else {
        entry.settle({ problem: link?.problem?.detail ?? "The server gave no link to this image." });
      }
    });
  } catch (error) {
    for (const entry of wanted) entry.settle({ problem: error.detail ?? String(error), lost: error.status === 0 });
  }
}

function send() {
  timer = null;
  for (const [name, entry] of waiting) {
    if (entry.isWanted()) continue;
    waiting.delete(name);
    entry.settle({ problem: "no longer wanted", lost: true });
  }
  while (running < AT_ONCE && waiting.size > 0) {
    const kind = waiting.values().next().value.kind;
    const batch = [...waiting.values()].filter((entry) => entry.kind === kind).slice(0, BATCH);
    for (const entry of batch) waiting.delete(entry.name);
    running += 1;
    ask(kind, batch).finally(() => {
      running -= 1;
      if (waiting.size > 0) send();
    });
  }
}

function one(image, kind, signal) {
  const name = nameOf(image, kind);
  const known = kept.get(name);
  if (known && known.expiresAt - Date.now() > MARGIN_MS) return Promise.resolve({ url: known.url });
  kept.delete(name);
  let entry = waiting.get(name);
  if (!entry) {
    const signals = [];
    let settle;
    const promise = new Promise((resolve) => { settle = resolve; });
    // Wanted while one who asked still waits; who gave no signal always waits.
    entry = { name, kind, image, signals, promise, settle, isWanted: () => signals.some((each) => !each?.aborted) };
    waiting.set(name, entry);
    timer ??= setTimeout(send, GATHER_MS);
  }
  entry.signals.push(signal);
  return entry.promise;
}

export const links = {
  /**
   * One `{url}` or `{problem}` for each of `images` (`{key, version_id?, revision?}`), in their order. `kind` is
   * `"image"` or `"thumbnail"`. `lost` beside a problem says that asking again may help.
   *
   * @param {object[]} images
   * @param {string} kind
   * @param {{signal?: AbortSignal}} [options]
   */
  of(images, kind, { signal } = {}) {
    return Promise.all(images.map((image) => one(image, kind, signal)));
  },

  /** Forgets a link that did not work, so that the next call asks for a new one. */
  forget(image, kind) {
    kept.delete(nameOf(image, kind));
  },
};
