// Two small charts of a slide: how sure the answers are, and when the images came.
//
// Draws only; every chart says in words what it shows. Invariant: a bar that stands for anything is at least two pixels
// high, so that the few suspicious images beside thousands are seen.

import { DECISIONS, decisionOf, el, format, replaceChildren, svg } from "./core.js";

const WIDTH = 320;
const HEIGHT = 96;
const BINS = 20;
const MOMENTS = 40;
const LEAST = 2;

/** What is drawn lowest first. */
const STACK = ["negative", "neutral", "review", "outlier", "positive"];

/** Bin of a confidence, counted from 0. */
export const binOf = (confidence) => Math.min(BINS - 1, Math.floor(confidence * BINS + 1e-9));

/** Lower and upper end of a bin. */
export const rangeOf = (bin) => [bin / BINS, (bin + 1) / BINS];

/** Draws the histogram of confidence; `choose(low, high)` is called with a bar's range, `range` is what is chosen. */
export function drawConfidence(root, cells, range, choose) {
  const bins = Array.from({ length: BINS }, () => ({ all: 0, by: {} }));
  for (const cell of cells) {
    if (cell.confidence === null || cell.confidence === undefined) continue;
    const bin = bins[binOf(cell.confidence)];
    const name = decisionOf(cell);
    bin.all += 1;
    bin.by[name] = (bin.by[name] ?? 0) + 1;
  }
  const total = bins.reduce((sum, bin) => sum + bin.all, 0);
  if (total === 0) {
    replaceChildren(root, el("p", { class: "quiet chart-empty" }, "No image here has a confidence."));
    return;
  }
  // With two labels nothing is below one half: half a chart of nothing is left away.
  const first = Math.min(bins.findIndex((bin) => bin.all > 0), BINS / 2);
  const shown = bins.slice(first);
  const most = Math.max(...shown.map((bin) => bin.all));
  const step = WIDTH / shown.length;
  const bars = shown.map((bin, index) => {
    const [low, high] = rangeOf(first + index);
    const isChosen = range.min !== null || range.max !== null ? (range.min ?? 0) < high - 1e-9 && (range.max ?? 1) > low + 1e-9 : true;
    const words = `${low.toFixed(2)} to ${high.toFixed(2)}: ${format.plural(bin.all, "image")}${STACK.filter((name) => bin.by[name]).map((name) => `\n${DECISIONS[name].word}: ${format.count(bin.by[name])}`).join("")}`;
    let y = HEIGHT;
    const pieces = STACK.filter((name) => bin.by[name]).map((name) => {
      const height = Math.max(LEAST, (bin.by[name] / most) * (HEIGHT - 8));
      y -= height;
      return svg("rect", { class: `fill-${name}`, x: index * step + 1, y, width: step - 2, height });
    });
    const bar = svg("g", { class: `bar${isChosen ? "" : " is-out"}` }, svg("title", {}, words), svg("rect", { class: "bar-ground", x: index * step, y: 0, width: step, height: HEIGHT }), pieces);
    bar.addEventListener("click", (event) => choose(low, high, event.shiftKey));
    return bar;
  });
  const low = rangeOf(first)[0];
  replaceChildren(
    root,
    svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Histogram of confidence of ${format.plural(total, "image")}; the fullest bar has ${format.count(most)}. The fields below choose a range.`, preserveAspectRatio: "none", "data-test": "histogram" }, bars),
    el("div", { class: "chart-axis" }, el("span", {}, low.toFixed(2)), el("span", {}, "confidence"), el("span", {}, "1.00")),
  );
}

/** Draws when images were uploaded. */
export function drawTimeline(root, cells) {
  const times = cells.map((cell) => Date.parse(cell.uploaded_at)).filter((time) => !Number.isNaN(time));
  if (times.length === 0) {
    replaceChildren(root, el("p", { class: "quiet chart-empty" }, "When these images were uploaded is not known."));
    return;
  }
  const start = times.reduce((a, b) => Math.min(a, b));
  const end = times.reduce((a, b) => Math.max(a, b));
  const span = Math.max(1000, end - start);
  const counts = new Array(MOMENTS).fill(0);
  for (const time of times) counts[Math.min(MOMENTS - 1, Math.floor(((time - start) / span) * MOMENTS))] += 1;
  const most = Math.max(...counts);
  const step = WIDTH / MOMENTS;
  const height = HEIGHT / 2;
  const bars = counts.map((count, index) => {
    if (count === 0) return null;
    const tall = Math.max(LEAST, (count / most) * (height - 4));
    return svg("g", {}, svg("title", {}, `${format.time(start + (index * span) / MOMENTS)}: ${format.plural(count, "image")}`), svg("rect", { class: "fill-time", x: index * step + 0.5, y: height - tall, width: step - 1, height: tall }));
  });
  replaceChildren(
    root,
    svg("svg", { class: "chart chart-low", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": `Uploads from ${format.time(start)} to ${format.time(end)}`, preserveAspectRatio: "none", "data-test": "timeline" }, bars),
    el("div", { class: "chart-axis" }, el("span", {}, format.time(start)), el("span", {}, format.time(end))),
  );
}
