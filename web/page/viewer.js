// Shows one image with pan and zoom: with OpenSeadragon if the binary holds it, else with the zoom of `simple_zoom.js`.
//
// Never draws controls of the library and asks no other machine than the page and its S3. Invariant: what is shown is
// the image last asked for, never one whose answer came late.

import { api, connection, el, icon } from "./core.js";
import { tileAddress } from "./picture.js";
import { SimpleZoom } from "./simple_zoom.js";

/** Screen pixels for one of the image from which on single pixels are shown instead of a blur. */
const SHARP_FROM = 12;

/** Largest number of screen pixels for one of the image. */
const MAX_SCALE = 40;

/** Longest wait of the library for a tile, ms: a day, as it knows no "for ever". */
const TILE_MS = 86_400_000;

const LIBRARY = "/openseadragon.min.js";

const REMEDY = "Run “make assets” once and build again.";
const WITHOUT_LIBRARY = `This program was built without deep zoom, so images have a simple zoom. ${REMEDY}`;
const SMALL_WITHOUT_LIBRARY = `This image is shown smaller than it is, because this program was built without deep zoom. ${REMEDY}`;

/** Whether the page has said that the library is missing. */
let isTold = false;

let loading = null;

/** The library, or `null` if the binary does not hold it. */
export function library() {
  loading ??= new Promise((resolve) => {
    // The library adds a sheet of its own where this mark is missing, which the content security policy forbids; its one
    // rule is in views.css. In no namespace the mark is found and is not a sheet itself.
    const mark = document.createElementNS(null, "style");
    mark.setAttribute("data-openseadragon-mobile-css", "");
    document.head.append(mark);
    const script = el("script", { src: LIBRARY });
    script.onload = () => resolve(globalThis.OpenSeadragon ?? null);
    // Not kept: a server that was away is asked again with the next image.
    script.onerror = () => { loading = null; resolve(null); };
    document.head.append(script);
  });
  return loading;
}

const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Loads a tile for the library, whose own requests know of no session. */
async function downloadTileStart(job) {
  const call = new AbortController();
  job.userData.call = call;
  for (;;) {
    try {
      return job.finish(await api.picture(job.src, { signal: call.signal }), null, "rasterBlob");
    } catch (error) {
      if (call.signal.aborted) return undefined;
      if (error.status !== 0) return job.fail(error.detail ?? error.message, null);
      // The library would never ask again for a tile that failed; a server that is away, or a session, comes back.
      await reached(call.signal);
    }
  }
}

/** Until the server is reached again. */
function reached(signal) {
  return new Promise((resolve) => {
    if (!connection.lost || signal.aborted) return setTimeout(resolve, 1_000);
    connection.addEventListener("change", resolve, { once: true, signal });
    return signal.addEventListener("abort", resolve);
  });
}

/** OpenSeadragon behind the few calls that the page makes. */
class DeepZoom {
  constructor(OpenSeadragon, host, onScale) {
    this.library = OpenSeadragon;
    this.turn = 0;
    this.isFit = true;
    this.viewer = new OpenSeadragon.Viewer({
      element: host,
      // Its buttons are pictures from a folder; ours are words and keys.
      showNavigationControl: false,
      showNavigator: false,
      // A canvas may show pictures of another origin without asking it for permission; WebGL may not.
      drawer: "canvas",
      crossOriginPolicy: false,
      // Each request has a limit of its own, and a tile may wait for the server.
      timeout: TILE_MS,
      animationTime: isStill() ? 0 : 0.35,
      blendTime: 0,
      maxZoomPixelRatio: MAX_SCALE,
      minZoomImageRatio: 0.6,
      visibilityRatio: 0.4,
      preserveImageSizeOnResize: false,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { flickEnabled: !isStill() },
    });
    this.viewer.canvas.setAttribute("role", "application");
    this.viewer.canvas.setAttribute("aria-label", "Image: arrow keys move it, plus and minus zoom, 0 shows the whole");
    this.viewer.addHandler("canvas-key", (event) => {
      // Letters belong to the page; arrows and + - 0 move the image.
      if (/^[a-z]$/i.test(event.originalEvent.key)) event.preventDefaultAction = true;
    });
    const tell = () => {
      const item = this.viewer.world?.getItemAt(0);
      if (!item) return;
      const scale = item.viewportToImageZoom(this.viewer.viewport.getZoom());
      this.viewer.drawer.setImageSmoothingEnabled(scale < SHARP_FROM);
      onScale(scale);
    };
    this.viewer.addHandler("animation", tell);
    this.viewer.addHandler("open", () => { this.isFit = true; tell(); });
    // A whole image stays whole when the window or the banner above changes.
    // Afterwards, because the library goes on to set its own idea of the new place.
    this.viewer.addHandler("resize", () => queueMicrotask(() => {
      if (this.isFit && this.viewer.viewport) this.viewer.viewport.goHome(true);
      tell();
    }));
    for (const name of ["canvas-scroll", "canvas-drag", "canvas-double-click", "canvas-pinch", "canvas-key"]) {
      this.viewer.addHandler(name, () => { this.isFit = false; });
    }
  }

  show(source) {
    const turn = ++this.turn;
    const tileSource = source.deepZoom
      ? {
          width: source.deepZoom.width,
          height: source.deepZoom.height,
          tileSize: source.deepZoom.tile_size,
          tileOverlap: source.deepZoom.overlap,
          maxLevel: source.deepZoom.max_level,
          getTileUrl: (level, column, row) => tileAddress(source, level, column, row),
          downloadTileStart,
          downloadTileAbort: (job) => job.userData.call?.abort(),
        }
      : { type: "image", url: source.url, buildPyramid: false };
    return new Promise((resolve, reject) => {
      // Settles as soon as something can be seen, or it is certain that nothing will.
      const names = ["open-failed", "tile-drawn", "tile-load-failed"];
      const handlers = {
        "tile-drawn": () => settle(resolve),
        "open-failed": (event) => settle(reject, event.message),
        "tile-load-failed": (event) => settle(reject, event.message),
      };
      const settle = (how, message) => {
        for (const name of names) this.viewer.removeHandler(name, handlers[name]);
        if (turn === this.turn) how(message ? new Error(message) : undefined);
      };
      for (const name of names) this.viewer.addHandler(name, handlers[name]);
      this.viewer.open(tileSource);
    });
  }

  zoomBy(factor) {
    this.isFit = false;
    this.viewer.viewport.zoomBy(factor);
    this.viewer.viewport.applyConstraints();
  }

  fit() {
    this.isFit = true;
    this.viewer.viewport.goHome();
  }

  actualSize() {
    const item = this.viewer.world.getItemAt(0);
    this.isFit = false;
    if (item) this.viewer.viewport.zoomTo(item.imageToViewportZoom(1 / devicePixelRatio));
  }

  destroy() { this.viewer.destroy(); }
}

/**
 * A viewer in a new element, `viewer.element`. `show(source)` takes a source of `picture.js` and is done when the image
 * can be seen, a picture of it at once; it throws an `Error` that says what is wrong. `simple` leaves the library out.
 */
export async function createViewer({ simple = false } = {}) {
  const OpenSeadragon = simple ? null : await library();
  const canvas = el("div", { class: "viewer-canvas", "data-test": "viewer-canvas" });
  const scaleText = el("output", { class: "viewer-scale", "aria-label": "Magnification", "data-test": "zoom-level" });
  const tell = (scale) => { scaleText.textContent = `${Math.round(scale * 100)} %`; };
  const inner = OpenSeadragon ? new DeepZoom(OpenSeadragon, canvas, tell) : new SimpleZoom(canvas, tell, { sharpFrom: SHARP_FROM, maxScale: MAX_SCALE });
  const control = (name, label, sign, run) => el("button", { class: "button viewer-button", type: "button", title: label, "aria-label": label, "data-test": name, onclick: run }, sign);
  const bar = el(
    "div",
    { class: "viewer-bar", role: "toolbar", "aria-label": "Zoom" },
    control("zoom-in", "Zoom in (+)", "+", () => inner.zoomBy(1.5)),
    control("zoom-out", "Zoom out (−)", "−", () => inner.zoomBy(1 / 1.5)),
    control("zoom-fit", "Fit: show the whole image (0)", "Fit", () => inner.fit()),
    control("zoom-actual", "1:1: one pixel of the image on one of the screen", "1:1", () => inner.actualSize()),
    scaleText,
  );
  const note = el("div", { class: "viewer-note", hidden: true });
  // The whole image, small, until the first tile is drawn in its place.
  const under = el("div", { class: "viewer-under", "aria-hidden": "true" });
  const element = el("div", { class: "viewer" }, under, canvas, bar, note);
  return {
    element,
    async show(source, label) {
      note.hidden = true;
      under.replaceChildren(...(source.overview ? [source.overview] : []));
      canvas.setAttribute("role", "group");
      canvas.setAttribute("aria-label", label);
      const isOverview = source.deepZoom && !OpenSeadragon;
      await inner.show(isOverview ? { picture: source.overview } : source);
      if (!isOverview) under.replaceChildren();
    },
    /** Words over the image, with what can be done, at least to hide them; `null` takes them away. */
    say(words, action = el("button", { class: "button small", type: "button", "data-test": "viewer-note-hide", onclick: () => { note.hidden = true; } }, "Hide")) {
      note.hidden = words === null;
      note.replaceChildren(...(words === null ? [] : [icon("warning"), el("span", {}, words), action]));
    },
    /** Says that the library is missing: once, and again where an image is shown small for want of it. */
    sayWithoutLibrary(source) {
      if (OpenSeadragon || (isTold && !source.deepZoom)) return;
      isTold = true;
      this.say(source.deepZoom ? SMALL_WITHOUT_LIBRARY : WITHOUT_LIBRARY);
    },
    zoomBy: (factor) => inner.zoomBy(factor),
    fit: () => inner.fit(),
    destroy: () => inner.destroy(),
  };
}

/** Keeps `element` as high as what is left of the window below its place, whatever stands above it. */
export function fillHeight(element, signal, below = 16) {
  const fit = () => {
    const top = element.getBoundingClientRect().top + scrollY;
    // On a narrow page the parts stand below each other, and the sheet says how high.
    element.style.height = matchMedia("(max-width: 1000px)").matches ? "" : `${Math.max(320, innerHeight - top - below)}px`;
  };
  const observer = new ResizeObserver(fit);
  // The banner above comes and goes.
  for (const other of document.body.children) observer.observe(other);
  addEventListener("resize", fit, { signal });
  signal.addEventListener("abort", () => observer.disconnect());
  fit();
}
