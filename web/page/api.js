// Talks to the query API: parameters, problems, and whether the server is there.
//
// Never retries by itself, but with a new token where the old one has ended: who asks knows whether asking again is right.
// Invariant: every failure is an `ApiError` whose `detail` is a sentence for people, except that a request which was called
// off throws the browser's `AbortError`.

import { session } from "./session.js";

/** Longest a request may take, ms; a server that hangs is a server that is not there. */
const TIMEOUT_MS = 30_000;

/** Answers kept for `fresh: false` requests, so that an unchanged list costs the server no body. */
const KEPT_ANSWERS = 60;

/** A request that failed; `status` is 0 where no answer came. */
export class ApiError extends Error {
  constructor(status, title, detail, parameter = null) {
    super(detail);
    this.name = "ApiError";
    this.status = status;
    this.title = title;
    this.detail = detail;
    this.parameter = parameter;
  }
}

/**
 * Whether the last request reached the server: `lost`, with the event `change`; and what the server could not answer
 * just now though it was reached: `troubles`, path to sentence, with the event `trouble`.
 */
class Connection extends EventTarget {
  lost = false;
  troubles = new Map();
  /** When the last answer came, ms since 1970. */
  answeredAt = Date.now();

  report(reached) {
    if (reached) this.answeredAt = Date.now();
    if (this.lost === !reached) return;
    this.lost = !reached;
    this.dispatchEvent(new Event("change"));
  }

  /** Tells that the route `path` failed with `detail`, or, without it, that it answered. */
  trouble(path, detail = null) {
    if ((this.troubles.get(path) ?? null) === detail) return;
    if (detail === null) this.troubles.delete(path);
    else this.troubles.set(path, detail);
    this.dispatchEvent(new Event("trouble"));
  }

  /** Forgets the troubles of a view that was left. */
  forgetTroubles() {
    for (const path of [...this.troubles.keys()]) this.trouble(path);
  }
}

export const connection = new Connection();

/**
 * URL of a route with parameters; lists become repeated parameters. What is empty is left out, but for `slide`: images
 * that were uploaded without a folder are the slide with the empty name.
 */
function address(path, params) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params ?? {})) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one === null || one === undefined || (one === "" && name !== "slide")) continue;
      query.append(name, String(one));
    }
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** A session that ended is to whoever asks like a server that is away: nothing is lost, and it goes on by itself. */
function unsigned(error) {
  connection.report(false);
  return new ApiError(0, "Not signed in", error.message);
}

async function send(url, options, signal) {
  const token = await session.token().catch((error) => { throw unsigned(error); });
  const response = await ask(url, options, token, signal);
  if (response.status !== 401 || token === null) return response;
  const isReplaced = await session.isReplaced(token).catch((error) => { throw unsigned(error); });
  // What was refused was not done: asking again does nothing twice.
  return isReplaced ? ask(url, options, await session.token(), signal) : response;
}

async function ask(url, options, token, signal) {
  signal?.throwIfAborted();
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  const headers = token === null ? options.headers : { ...options.headers, Authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(url, { ...options, headers, signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
  } catch (error) {
    if (signal?.aborted) throw error;
    connection.report(false);
    throw new ApiError(0, "No answer", "The server does not answer. What is shown stays; it is asked again by itself.");
  }
  connection.report(true);
  return response;
}

async function problemOf(response) {
  let body = {};
  try {
    body = await response.json();
  } catch {
    // Not a problem document, e.g. of a proxy in between: the status has to do.
  }
  const detail = body.detail ?? `The server answered ${response.status} ${response.statusText}.`;
  return new ApiError(response.status, body.title ?? response.statusText, detail, body.parameter ?? null);
}

/** The body as JSON, or, `as` says so, as something else. */
async function bodyOf(response, signal, as = "json") {
  try {
    return await response[as]();
  } catch (error) {
    if (signal?.aborted) throw error;
    // A body that breaks off: the server ended while it answered.
    connection.report(false);
    throw new ApiError(0, "Answer broke off", "The server's answer broke off.");
  }
}

/** URL to `{etag, body}`, oldest first. */
const kept = new Map();

export const api = {
  /**
   * The JSON of a route. With `same: true` an answer that has not changed is the very same object as before, so that a
   * view can tell by `===` that there is nothing to draw.
   *
   * @param {string} path
   * @param {object} [params]
   * @param {{signal?: AbortSignal, same?: boolean}} [options]
   */
  async get(path, params, { signal, same = false } = {}) {
    const url = address(path, params);
    const before = same ? kept.get(url) : undefined;
    const headers = before ? { "If-None-Match": before.etag } : {};
    const response = await send(url, { headers }, signal);
    if (response.status === 304 && before) {
      connection.trouble(path);
      return before.body;
    }
    if (!response.ok) {
      const problem = await problemOf(response);
      if (problem.status >= 500) connection.trouble(path, problem.detail);
      throw problem;
    }
    connection.trouble(path);
    const body = await bodyOf(response, signal);
    const etag = response.headers.get("ETag");
    if (same && etag) {
      kept.delete(url);
      kept.set(url, { etag, body });
      if (kept.size > KEPT_ANSWERS) kept.delete(kept.keys().next().value);
    }
    return body;
  },

  /**
   * The bytes of a picture at the address `url`, a `Blob`.
   *
   * @param {string} url
   * @param {{signal?: AbortSignal}} [options]
   */
  async picture(url, { signal } = {}) {
    const response = await send(url, {}, signal);
    if (!response.ok) throw await problemOf(response);
    return bodyOf(response, signal, "blob");
  },

  /**
   * The JSON of a route that takes a JSON body; `null` where it answers without one.
   *
   * @param {string} path
   * @param {object} body
   * @param {{signal?: AbortSignal}} [options]
   */
  async post(path, body, { signal } = {}) {
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const response = await send(path, options, signal);
    if (!response.ok) throw await problemOf(response);
    return response.status === 204 ? null : bodyOf(response, signal);
  },
};
