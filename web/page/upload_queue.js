// Sends files to the object store by signed links: so many at once, in parts when large, again when it fails.
//
// Draws nothing. Invariant: every file that was added ends as `done`, `refused`, `failed` or `cancelled`; one that failed
// or would replace an image keeps its place and its reason until somebody decides.

import { api, connection } from "./core.js";

/** Requests to the object store at once. */
const AT_ONCE = 6;

/** Parts of one file at once, so that a large file leaves room for others. */
const PARTS_AT_ONCE = 3;

/** Links asked for at once; few, because links expire while their files wait. */
const LINKS_AT_ONCE = 25;

/** Tries of a request by itself, after which a person decides. */
const TRIES = 4;

const FIRST_PAUSE_MS = 1_000;

/** How long to wait before a server that is away is asked again, ms. */
const SERVER_PAUSE_MS = 2_000;

/** A link this close to its end is not used any more: ms, and share of its life. */
const MARGIN_MS = 10_000;
const MARGIN_SHARE = 0.25;

/** A request that sends nothing for so long is given up, ms. */
const STALL_MS = 60_000;

const TYPES = {
  png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", tif: "image/tiff", tiff: "image/tiff", bmp: "image/bmp", gif: "image/gif", webp: "image/webp",
};

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const contentType = (file) => file.type || TYPES[file.name.split(".").pop().toLowerCase()] || "";

/** Until when a link that ends at `expiresAt` is used, ms since 1970. */
function usableUntil(expiresAt) {
  const end = Date.parse(expiresAt);
  return end - Math.min(MARGIN_MS, MARGIN_SHARE * Math.max(0, end - Date.now()));
}

/** A request to the object store that failed; `kind` says what helps. */
class SendError extends Error {
  constructor(kind, message) {
    super(message);
    /** `network`, `expired`, `busy`, `refused`, `stopped`. */
    this.kind = kind;
  }
}

/** What S3 says in its XML, without parsing it as a document. */
function messageOf(text) {
  const found = /<Message>([^<]{1,300})<\/Message>/.exec(text ?? "");
  return found ? found[1] : "";
}

function failureOf(request) {
  const said = messageOf(request.responseText);
  if (request.status === 403) return new SendError("expired", `the link was not accepted (403${said ? `: ${said}` : ""})`);
  if (request.status === 404 && said.includes("upload")) return new SendError("expired", said);
  if (request.status >= 500 || request.status === 429 || request.status === 408) {
    return new SendError("busy", `the store answered ${request.status}${said ? `: ${said}` : ""}`);
  }
  return new SendError("refused", `the store answered ${request.status}${said ? `: ${said}` : ""}`);
}

/** Whether the browser can still read a file; to a request, one that cannot be read looks like a broken connection. */
async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

/** Puts `body` to `url`; answers the ETag. `requests` holds what can be called off. */
function put(url, headers, body, onProgress, requests) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let stall = null;
    const alive = () => {
      clearTimeout(stall);
      stall = setTimeout(() => {
        request.abort();
        reject(new SendError("network", "nothing was sent for a minute"));
      }, STALL_MS);
    };
    const end = (settle) => {
      clearTimeout(stall);
      requests.delete(request);
      settle();
    };
    request.open("PUT", url);
    for (const [name, value] of Object.entries(headers ?? {})) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      alive();
      onProgress(event.loaded);
    };
    request.onload = () => end(() => {
      if (request.status >= 200 && request.status < 300) resolve(request.getResponseHeader("ETag"));
      else reject(failureOf(request));
    });
    request.onerror = () => end(() => reject(new SendError("network", "the connection to the store broke off")));
    request.onabort = () => end(() => reject(new SendError("stopped", "stopped")));
    requests.add(request);
    alive();
    request.send(body);
  });
}

/** Files on their way. Dispatches `change` (a state or progress; often) and `stored` (`detail` is the file's item). */
export class UploadQueue extends EventTarget {
  /**
   * `{file, name, size, state, sent, tries, detail}`; `state` is `waiting`, `sending`, `done`, `failed`, `refused`,
   * `cancelled`, or `held`: an image of this name is there, and somebody has to say whether it is to be replaced.
   */
  items = [];
  paused = false;
  /** Whether links cannot be asked for because the server is away. */
  serverAway = false;
  #free = AT_ONCE;
  #waitingForSlot = [];
  #linking = false;
  #running = 0;

  /** Adds `{file, name}`s. */
  add(files) {
    for (const { file, name } of files) {
      this.items.push({ file, name, size: file.size, state: "waiting", sent: 0, tries: 0, detail: "", mayReplace: false, link: null, requests: new Set() });
    }
    this.#go();
  }

  /** Whether something is still to be sent. */
  get isBusy() {
    return this.items.some((item) => item.state === "waiting" || item.state === "sending");
  }

  /** Starts nothing new; what is on its way ends. */
  pause() {
    this.paused = true;
    this.#changed();
  }

  resume() {
    this.paused = false;
    this.#go();
  }

  /** Stops what waits and what is on its way; what is stored stays stored. */
  cancel() {
    for (const item of this.items) {
      if (item.state !== "waiting" && item.state !== "sending") continue;
      item.state = "cancelled";
      item.detail = "stopped before it was stored";
      for (const request of [...item.requests]) request.abort();
      this.#abandon(item);
    }
    this.paused = false;
    this.#changed();
  }

  /** Sends the files that are held, or leaves what is there as it is. */
  decide(replace) {
    for (const item of this.items) {
      if (item.state !== "held") continue;
      item.state = replace ? "waiting" : "cancelled";
      item.detail = replace ? "" : "not uploaded: the image that is there stays";
      item.mayReplace = true;
    }
    this.#go();
  }

  /** Tries failed files again: all, or one. */
  retry(only = null) {
    for (const item of this.items) {
      if (item.state !== "failed" || (only && item !== only)) continue;
      Object.assign(item, { state: "waiting", sent: 0, tries: 0, detail: "", link: null });
    }
    this.paused = false;
    this.#go();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #go() {
    this.#changed();
    if (this.paused) return;
    for (const item of this.items) {
      if (this.#running >= AT_ONCE) break;
      if (item.state === "waiting" && item.link) this.#start(item);
    }
    const linked = this.items.filter((item) => item.state === "waiting" && item.link).length;
    if (linked < AT_ONCE && !this.#linking) this.#askLinks();
  }

  async #askLinks() {
    const wanted = this.items.filter((item) => item.state === "waiting" && !item.link).slice(0, LINKS_AT_ONCE);
    if (wanted.length === 0) return;
    this.#linking = true;
    try {
      const files = wanted.map((item) => ({ name: item.name, size_bytes: item.size, content_type: contentType(item.file) }));
      const answer = await api.post("/api/uploads", { files });
      this.serverAway = false;
      wanted.forEach((item, index) => this.#takeLink(item, answer.uploads[index]));
    } catch (error) {
      if (error.status !== 0 && error.status < 500) {
        for (const item of wanted) if (item.state === "waiting") this.#fail(item, error.detail ?? String(error));
      } else {
        // The server is away: nothing is lost, and no file is to blame.
        this.serverAway = true;
        this.#changed();
        await this.#untilServer();
      }
    } finally {
      this.#linking = false;
    }
    this.#go();
  }

  #takeLink(item, link) {
    if (item.state !== "waiting") {
      this.#abandon({ link });
      return;
    }
    if (link?.problem || !link) {
      item.state = "refused";
      item.detail = link?.problem?.detail ?? "the server gave no link";
      return;
    }
    if (link.replaces && !item.mayReplace) {
      item.state = "held";
      item.detail = "an image of this name is there already";
      this.#abandon({ link });
      return;
    }
    // From now on an image that is there may be this very file, whose answer was lost on its way.
    item.mayReplace = true;
    item.link = { ...link, usableUntil: usableUntil(link.expires_at), etags: new Map() };
  }

  /** Until the server may be there again. */
  #untilServer() {
    return /** @type {Promise<void>} */ (new Promise((resolve) => {
      const timer = setTimeout(done, SERVER_PAUSE_MS);
      function done() {
        clearTimeout(timer);
        connection.removeEventListener("change", done);
        resolve();
      }
      connection.addEventListener("change", done);
    }));
  }

  async #start(item) {
    item.state = "sending";
    this.#running += 1;
    try {
      await this.#send(item);
    } finally {
      this.#running -= 1;
      this.#go();
    }
  }

  /** Sends a file until it is stored, refused, cancelled or has failed too often. */
  async #send(item) {
    for (;;) {
      try {
        if (item.link === null || item.link.usableUntil < Date.now()) await this.#freshLink(item);
        if (item.state !== "sending") return;
        await (item.link.parts ? this.#sendParts(item) : this.#sendWhole(item));
        item.state = "done";
        item.sent = item.size;
        item.detail = "";
        this.dispatchEvent(new CustomEvent("stored", { detail: item }));
        return;
      } catch (error) {
        if (item.state !== "sending") return;
        const { kind } = error;
        if (kind === "refused" || kind === undefined) return this.#fail(item, error.detail ?? error.message);
        if (kind === "network" && !(await isReadable(item.file))) {
          return this.#fail(item, "the file cannot be read any more: it was moved, changed or removed since it was chosen; choose it again");
        }
        // A store that went away together with the server is not a fault of the file either.
        if (kind === "away" || (kind === "network" && connection.lost)) {
          item.detail = "waits for the server";
          this.serverAway = true;
          this.#changed();
          await this.#untilServer();
          this.serverAway = connection.lost;
          continue;
        }
        item.tries += 1;
        if (item.tries >= TRIES) return this.#fail(item, `${error.message}; tried ${item.tries} times`);
        item.detail = `${error.message}; trying again`;
        this.#changed();
        if (kind === "expired") item.link.usableUntil = 0;
        else await pause(FIRST_PAUSE_MS * 2 ** (item.tries - 1) * (0.75 + Math.random() / 2));
        if (item.state !== "sending") return;
      }
    }
  }

  #fail(item, detail) {
    item.state = "failed";
    item.detail = detail;
    item.sent = 0;
    this.#abandon(item);
    item.link = null;
    this.#changed();
  }

  /** A new link in the place of one that has expired; parts that were sent stay sent. */
  async #freshLink(item) {
    let answer;
    try {
      if (item.link?.upload_id) {
        const missing = item.link.parts.map((part) => part.number).filter((number) => !item.link.etags.has(number));
        answer = await api.post("/api/uploads/parts", { key: item.link.key, upload_id: item.link.upload_id, parts: missing });
        const urls = new Map(answer.parts.map((part) => [part.number, part.url]));
        item.link.parts = item.link.parts.map((part) => ({ number: part.number, url: urls.get(part.number) ?? part.url }));
        item.link.usableUntil = usableUntil(answer.expires_at);
        return;
      }
      const file = { name: item.name, size_bytes: item.size, content_type: contentType(item.file) };
      answer = (await api.post("/api/uploads", { files: [file] })).uploads[0];
    } catch (error) {
      if (error.status === 0 || error.status >= 500) throw new SendError("away", "the server does not answer");
      if (error.status === 404 && item.link?.upload_id) {
        // The store has forgotten the upload in parts: from the start, with a new one.
        item.link = null;
        throw new SendError("busy", error.detail);
      }
      throw new SendError("refused", error.detail ?? String(error));
    }
    if (!answer || answer.problem) throw new SendError("refused", answer?.problem?.detail ?? "the server gave no link");
    item.link = { ...answer, usableUntil: usableUntil(answer.expires_at), etags: new Map() };
  }

  async #sendWhole(item) {
    await this.#slot(item, () => put(item.link.url, item.link.headers, item.file, (sent) => this.#progress(item, sent), item.requests));
  }

  async #sendParts(item) {
    const { link, file } = item;
    const sizes = new Map();
    for (const number of link.etags.keys()) sizes.set(number, this.#partOf(file, link, number).size);
    const missing = link.parts.filter((part) => !link.etags.has(part.number));
    let failure = null;
    const worker = async () => {
      for (;;) {
        const part = failure ? undefined : missing.shift();
        if (!part || item.state !== "sending") return;
        try {
          const etag = await this.#slot(item, () => put(part.url, {}, this.#partOf(file, link, part.number), (sent) => {
            sizes.set(part.number, sent);
            this.#progress(item, [...sizes.values()].reduce((a, b) => a + b, 0));
          }, item.requests));
          if (!etag) throw new SendError("refused", "the store does not show the ETag of a part to this page: its CORS rules must expose ETag");
          link.etags.set(part.number, etag);
        } catch (error) {
          failure ??= error;
        }
      }
    };
    await Promise.all(Array.from({ length: PARTS_AT_ONCE }, worker));
    if (failure) throw failure;
    if (item.state !== "sending") throw new SendError("stopped", "stopped");
    const parts = [...link.etags].sort(([a], [b]) => a - b).map(([number, etag]) => ({ number, etag }));
    try {
      await api.post("/api/uploads/complete", { key: link.key, upload_id: link.upload_id, parts });
    } catch (error) {
      if (error.status === 0) throw new SendError("away", "the server does not answer");
      // Unknown to the store: perhaps an answer that was lost said that it is complete. Sending it again is safe.
      if (error.status === 404) item.link = null;
      throw new SendError(error.status >= 500 || error.status === 404 ? "busy" : "refused", error.detail ?? String(error));
    }
    // What is complete cannot be abandoned.
    item.link = null;
  }

  #partOf(file, link, number) {
    return file.slice((number - 1) * link.part_size_bytes, number * link.part_size_bytes);
  }

  /** Runs `work` when one of the slots is free. */
  async #slot(item, work) {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise((resolve) => { this.#waitingForSlot.push(resolve); });
    try {
      if (item.state !== "sending") throw new SendError("stopped", "stopped");
      return await work();
    } finally {
      const next = this.#waitingForSlot.shift();
      if (next) next();
      else this.#free += 1;
    }
  }

  #progress(item, sent) {
    item.sent = Math.min(sent, item.size);
    this.#changed();
  }

  /** Tells the store that an upload in parts will not be ended; a rule of the bucket takes away what this misses. */
  #abandon({ link }) {
    if (link?.upload_id) api.post("/api/uploads/abort", { key: link.key, upload_id: link.upload_id }).catch(() => {});
  }
}
