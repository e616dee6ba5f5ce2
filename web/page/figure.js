// The figure of a slide as people read it: cells, positives, parasitemia and what it is worth.
//
// Draws only; the server computes. Invariant: a parasitemia is never shown without its interval.

import { decisionBadge, el, format, icon } from "./core.js";

/** Words for what a slide's figure says at a glance; `unanswered` is `null` while it is not known. */
export function finding(figure, unanswered = null) {
  const open = unanswered > 0 ? " so far" : "";
  if (figure.positives > 0) return decisionBadge("positive", "Positive");
  if (figure.needs_review > 0) return decisionBadge("review", "Needs a look");
  if (figure.cells === 0) return decisionBadge(figure.rejected > 0 ? "rejected" : "outlier", `No cells${open}`);
  if (figure.cells_with_sign === 0) return decisionBadge("neutral", `Answered${open}`);
  return decisionBadge("negative", `No positives${open}`);
}

/** What is to be said of a figure beside its numbers, or `null`. */
export function remarks(figure) {
  const words = [
    figure.withdrawn > 0 ? `${format.count(figure.withdrawn)} withdrawn` : null,
    figure.duplicates > 0 ? `${format.count(figure.duplicates)} of the same bytes` : null,
  ].filter(Boolean).join(", ");
  return words ? el("div", { class: "quiet small-text", "data-test": "figure-remarks" }, words) : null;
}

/** `2.2 % (1.9–2.7 %)`, or a dash where no model names a positive label. */
export function parasitemia(figure) {
  if (figure.parasitemia_percent === null || figure.parasitemia_percent === undefined) {
    return el("span", { class: "quiet", title: "no cell of a model that names positive labels" }, "–");
  }
  return el(
    "span",
    {},
    el("strong", {}, format.percent(figure.parasitemia_percent)),
    " ",
    el("span", { class: "quiet interval" }, `(${format.interval(figure.parasitemia_interval_percent)})`),
  );
}

/** A question mark that opens what a parasitemia says and what it does not. */
export function parasitemiaHelp(href) {
  const help = el(
    "details",
    { class: "help", "data-test": "parasitemia-help" },
    el("summary", { "aria-label": "What this parasitemia says" }, icon("help")),
    el(
      "div",
      {},
      el("p", {}, el("strong", {}, "Parasitemia"), " is the share of positive cells among all cells of the slide, with its 95 % Wilson score interval."),
      el("p", {}, "The interval is of counting alone. It knows nothing of the model's errors: with a specificity of 99 %, one healthy cell in a hundred is called positive, and a healthy slide shows about 1 %."),
      el("p", {}, "So a figure below 100 % − specificity says little by itself: look at the positive cells. Images that look like no cell, and rejected ones, are not counted."),
      el("p", {}, el("a", { href: href("/models") }, "The model's specificity is in its gate report")),
    ),
  );
  const close = (event) => {
    if (!help.isConnected) return document.removeEventListener("click", close);
    if (!help.contains(event.target)) help.open = false;
  };
  document.addEventListener("click", close);
  help.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !help.open) return;
    help.open = false;
    help.querySelector("summary").focus();
  });
  return help;
}

/** A count of which any is worth a look: a marked number, or a quiet 0. */
export function tally(count, kind) {
  if (count === null || count === undefined) return el("span", { class: "quiet" }, "–");
  if (count === 0) return el("span", { class: "quiet" }, "0");
  return el("span", { class: `tag ${kind}` }, icon(kind === "warning" ? "warning" : kind), format.count(count));
}
