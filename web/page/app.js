// The shell around the views: which view an address shows, the header, and what all views share.
//
// Never fetches what a view shows. Invariant: one view at a time; when it is left its `signal` is aborted, and with it
// its requests, its polls and its listeners.

import { api, connection, el, icon, replaceChildren, stateBox } from "./core.js";
import { watchHealth } from "./banner.js";
import { session } from "./session.js";
import { enter, person, showRefused } from "./sign_in.js";
import { uploads } from "./upload.js";

/** Views by path; `entry` is their word in the navigation. */
const VIEWS = {
  "/": { entry: "Slides", load: () => import("./slides.js") },
  "/slide": { load: () => import("./slide.js"), under: "/" },
  "/image": { load: () => import("./image.js"), under: "/" },
  "/review": { entry: "Review", load: () => import("./review.js") },
  "/models": { entry: "Models", load: () => import("./models.js") },
  "/health": { entry: "Health", load: () => import("./health.js") },
};

/** Pause between two tries for what the page cannot start without, ms. */
const RETRY_MS = 2_000;

const main = document.getElementById("main");
const announcer = document.getElementById("announcer");

/** Answer of `/api/settings`. */
let settings = null;
/** Ends what goes on as long as the page does. */
const page = new AbortController();
let current = new AbortController();
/** Where the reader came from: `{path, query}` of the view before. */
let previous = null;
let here = null;
/** Address of what is shown, without its fragment. */
let shownAddress = "";
/** Counts views shown, so that one which loads slowly does not overwrite a later one. */
let shown = 0;

const queryOf = (location) => new URLSearchParams(location.search);

function stageOf(query) {
  const asked = query.get("stage");
  return asked && settings.stages.includes(asked) ? asked : settings.stages[0];
}

/** Address of a view; the stage goes along unless it is the first one. */
function href(path, params = {}) {
  const query = new URLSearchParams();
  const stage = params.stage ?? stageOf(queryOf(location));
  for (const [name, value] of Object.entries({ ...params, stage: stage === settings.stages[0] ? null : stage })) {
    if (value !== null && value !== undefined && value !== "" && value !== false) query.set(name, String(value));
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

function navigate(path, params, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", href(path, params));
  show({ focus: true });
}

/** Changes parameters of the address without leaving the view; `null` takes one out. */
function setQuery(params) {
  const query = queryOf(location);
  for (const [name, value] of Object.entries(params)) {
    if (value === null || value === undefined || value === "" || value === false) query.delete(name);
    else query.set(name, String(value));
  }
  const text = query.toString();
  history.replaceState(history.state, "", text ? `${location.pathname}?${text}` : location.pathname);
  shownAddress = location.pathname + location.search;
  here.query = query;
}

function announce(text) {
  // Emptied first: the same words twice are otherwise not spoken again.
  announcer.textContent = "";
  setTimeout(() => { announcer.textContent = text; }, 50);
}

function setTitle(title) {
  document.title = title ? `${title} · Giemsa` : "Giemsa";
}

/**
 * Calls `work` now and then again and again, `ms` after it is done, while the page is seen and `signal` is not aborted.
 * Hidden, it waits; seen again, it starts at once. What `work` throws is the caller's to show: it only makes the pauses
 * longer, up to ten seconds.
 */
export function every(ms, work, signal) {
  let timer = null;
  let failures = 0;
  let running = false;
  async function turn() {
    timer = null;
    if (signal.aborted || document.hidden || running) return;
    running = true;
    try {
      await work();
      failures = 0;
    } catch (error) {
      if (signal.aborted) return;
      // Called off by the view itself, which went on to something else: no failure.
      if (error.name !== "AbortError") {
        failures += 1;
        if (error.name !== "ApiError") console.error(error);
      }
    } finally {
      running = false;
    }
    if (signal.aborted || document.hidden) return;
    timer = setTimeout(turn, Math.min(10_000, ms * 2 ** Math.min(failures, 4)));
  }
  function wake() {
    if (document.hidden) return;
    clearTimeout(timer);
    turn();
  }
  document.addEventListener("visibilitychange", wake, { signal });
  // What failed for want of a server is asked again as soon as another request reaches it.
  connection.addEventListener("change", () => { if (!connection.lost && failures > 0) wake(); }, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  turn();
}

async function show({ focus = false } = {}) {
  current.abort();
  current = new AbortController();
  connection.forgetTroubles();
  const { signal } = current;
  const turn = ++shown;
  const path = location.pathname;
  const query = queryOf(location);
  previous = here;
  here = { path, query };
  shownAddress = location.pathname + location.search;
  drawNavigation(path);
  drawStages(query);
  const root = el("div", { class: "view" });
  const view = VIEWS[path];
  if (!view) {
    setTitle("No such page");
    main.replaceChildren(stateBox({
      kind: "empty",
      title: "There is no such page",
      text: `Nothing is at ${path}.`,
      action: { label: "To the slides", href: href("/") },
    }));
    return;
  }
  const context = {
    signal,
    settings,
    stage: stageOf(query),
    previous,
    navigate,
    href,
    setQuery,
    setTitle,
    announce,
    every: (ms, work) => every(ms, work, signal),
  };
  let module;
  try {
    module = await view.load();
  } catch {
    if (turn !== shown) return;
    main.replaceChildren(stateBox({
      kind: "error",
      title: "This part of the page could not be loaded",
      text: "The server may be starting anew, or serve another version than the one this page came from.",
      action: { label: "Reload the page", run: () => location.reload() },
    }));
    return;
  }
  if (turn !== shown) return;
  main.replaceChildren(root);
  if (focus) scrollTo(0, 0);
  uploads.makeRoom();
  completeSettings();
  setTitle(view.entry ?? "");
  try {
    await module.show(root, query, context);
  } catch (error) {
    if (signal.aborted) return;
    if (error.name !== "ApiError") console.error(error);
    replaceChildren(root, stateBox({
      kind: "error",
      title: error.title ?? "This view could not be shown",
      text: error.detail ?? String(error),
      action: { label: "Try again", run: () => show({ focus: true }) },
    }));
    // A server that was away: the view comes by itself when it is back.
    if (error.status === 0) connection.addEventListener("change", () => { if (!connection.lost) show(); }, { signal, once: true });
  }
  // A view that put the focus somewhere itself keeps it there.
  if (focus && turn === shown && !main.contains(document.activeElement)) {
    const heading = root.querySelector("h1");
    if (heading) {
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    }
  }
}

function drawNavigation(path) {
  const entries = Object.entries(VIEWS).filter(([, view]) => view.entry);
  const active = VIEWS[path]?.under ?? path;
  replaceChildren(
    document.getElementById("navigation"),
    entries.map(([target, view]) => el("a", {
      href: href(target),
      "aria-current": target === active ? "page" : null,
      "data-test": `nav-${view.entry.toLowerCase()}`,
    }, view.entry)),
  );
}

const stageSlot = el("span", { class: "stage-slot" });

function drawStages(query) {
  const chosen = stageOf(query);
  if (settings.stages.length < 2) return replaceChildren(stageSlot);
  const select = el("select", { "data-test": "stage", id: "stage" }, settings.stages.map((stage) => el("option", { value: stage, selected: stage === chosen }, stage)));
  select.addEventListener("change", () => {
    const params = Object.fromEntries(queryOf(location));
    // A place in a list of one stage means nothing in another.
    delete params.cursor;
    navigate(location.pathname, { ...params, stage: select.value });
    stageSlot.querySelector("select")?.focus();
  });
  replaceChildren(stageSlot, el("label", { for: "stage", class: "quiet" }, "Stage"), select);
  stageSlot.classList.toggle("is-other", chosen !== settings.stages[0]);
}

const THEMES = { auto: ["auto", "as the system"], light: ["sun", "light"], dark: ["moon", "dark"] };

function themeButton() {
  const names = Object.keys(THEMES);
  const button = el("button", { class: "button icon-only", type: "button", "data-test": "theme" });
  let theme = document.documentElement.dataset.theme ?? "auto";
  function draw() {
    const [picture, words] = THEMES[theme];
    replaceChildren(button, icon(picture));
    button.setAttribute("aria-label", `Colours: ${words}; press to change`);
    button.title = `Colours: ${words}`;
  }
  button.addEventListener("click", () => {
    theme = names[(names.indexOf(theme) + 1) % names.length];
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("giemsa.theme", theme);
    } catch {
      // Storage is switched off: the choice holds for this page.
    }
    draw();
  });
  draw();
  return button;
}

/** Follows links within the page without loading it anew. */
function followLinks() {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = /** @type {HTMLAnchorElement | null} */ (event.target instanceof Element ? event.target.closest("a[href]") : null);
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin || !(link.pathname in VIEWS)) return;
    if (link.hash && link.pathname === location.pathname && link.search === location.search) return;
    event.preventDefault();
    history.pushState(null, "", link.href);
    show({ focus: true });
  });
  addEventListener("popstate", () => {
    // A jump within the page, e.g. to the content, shows nothing else.
    if (location.pathname + location.search !== shownAddress) show();
  });
}

/** What the page starts with; `null` if the server refuses whoever has signed in, which is said then. */
async function loadSettings() {
  for (;;) {
    try {
      return await api.get("/api/settings");
    } catch (error) {
      if (session.isNeeded && (error.status === 401 || error.status === 403 || session.problem !== null)) {
        showRefused(main, error);
        return null;
      }
      main.replaceChildren(stateBox({
        kind: "error",
        title: "The server does not answer",
        text: [el("p", {}, error.detail ?? String(error)), el("p", {}, "This page goes on by itself as soon as it does.")],
      }));
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** Stops everything and takes what was shown off the page, so that nobody comes back to it. */
function leave() {
  page.abort();
  current.abort();
  uploads.queue.cancel();
  uploads.queue.decide(false);
  document.getElementById("navigation").replaceChildren();
  document.getElementById("tools").replaceChildren();
  document.getElementById("banner").hidden = true;
  main.replaceChildren();
}

/** Labels come with the first model that is accepted, which may be after this page. */
function completeSettings() {
  if (settings.labels.length > 0) return;
  api.get("/api/settings").then((answer) => Object.assign(settings, answer), () => {});
}

async function start() {
  // The view's files come while it is found out who is there, and the settings are asked for.
  VIEWS[location.pathname]?.load().catch(() => {});
  if (!(await enter(main))) return;
  settings = await loadSettings();
  if (!settings) return;
  const shared = { settings, announce, navigate, href, every: (ms, work) => every(ms, work, page.signal) };
  const isBusy = () => uploads.queue.isBusy;
  replaceChildren(document.getElementById("tools"), stageSlot, uploads.start(shared), person(settings.reviewer, { isBusy, leave }), themeButton());
  watchHealth(document.getElementById("banner"), shared);
  // Signed out in another tab, or a page from before that the browser has kept: anew, and then nothing is shown.
  session.addEventListener("signed-out", () => { leave(); location.reload(); });
  addEventListener("pageshow", (event) => { if (event.persisted && session.isNeeded) location.reload(); });
  followLinks();
  show();
}

start();
