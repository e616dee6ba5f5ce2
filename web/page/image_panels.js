// The panels of the image view that tell of more than one answer: stages side by side, history, reviews, raw records.
//
// Draws only. Invariant: where stages differ it is said in words, not only by colour.

import { copyButton, decisionBadge, decisionOf, el, format, icon } from "./core.js";
import { digest, modelName, panel, percentOf, reasonsOf } from "./answer.js";

/** Confidences this far apart are a difference that a reader should see. */
const FAR_APART = 0.1;

function stagesWords(results, labels) {
  if (labels.size > 1) return "The stages answer differently: look at the image yourself.";
  return results.every((record) => record.status === "rejected") ? "No stage could classify it." : "The stages agree on the label.";
}

/** An outlier score with three digits; the raw record has all. */
function scoreOf(score) {
  if (score === null || score === undefined) return "–";
  return score > 0 && score < 0.0005 ? "< 0.001" : String(Number(score.toPrecision(3)));
}

/** All stages' answers in columns; rows in which they differ are marked, but for what always differs. */
export function stagesPanel(results) {
  const differ = (value) => new Set(results.map(value)).size > 1;
  const confidences = results.map((record) => record.confidence ?? 0);
  const why = (record) => reasonsOf(record).join("; ") || "–";
  // Name, what is shown, whether the stages differ in it.
  /** @type {[string, (record: any) => any, boolean][]} */
  const rows = [
    ["Decision", (record) => decisionBadge(decisionOf(record)), differ(decisionOf)],
    ["Label", (record) => record.label ?? "–", differ((record) => record.label)],
    ["Confidence", (record) => percentOf(record.confidence), Math.max(...confidences) - Math.min(...confidences) >= FAR_APART],
    ["Outlier score", (record) => scoreOf(record.outlier_score), differ((record) => record.outlier)],
    ["Needs a look", (record) => (record.needs_review ? "yes" : "no"), differ((record) => record.needs_review)],
    ["Why", why, false],
    ["Model", (record) => modelName(record.model), false],
    ["Digest", (record) => digest(record.model.sha256), false],
  ];
  const body = rows.map(([name, draw, isDifferent]) => el(
    "tr",
    { class: isDifferent ? "differs" : null, "data-test": isDifferent ? "stage-difference" : null },
    el("th", { scope: "row" }, name, isDifferent ? el("span", { class: "differs-mark", title: "The stages differ" }, icon("warning"), el("span", { class: "visually-hidden" }, " (differs)")) : null),
    results.map((record) => el("td", {}, draw(record))),
  ));
  const labels = new Set(results.map((record) => record.label));
  return panel(
    "All stages",
    "panel-stages",
    el("p", { class: "panel-note", "data-test": "stages-agree" }, stagesWords(results, labels)),
    el("div", { class: "table-scroll", tabindex: 0, role: "group", "aria-label": "Answers of all stages" }, el("table", { class: "compact" }, el("thead", {}, el("tr", {}, el("td", {}), results.map((record) => el("th", { scope: "col" }, record.stage)))), el("tbody", {}, body))),
  );
}

/** Answers to earlier versions of the image and of earlier models; `show` is called with one to be looked at. */
export function historyPanel({ history, results }, record, show) {
  const current = new Set(results.map((result) => result.result_id));
  const earlier = history.filter((entry) => !current.has(entry.result_id));
  const isOther = (entry) => entry.version_id && record.image.version_id && entry.version_id !== record.image.version_id;
  return panel(
    "Earlier answers",
    "panel-history",
    earlier.length === 0
      ? el("p", { class: "panel-note quiet" }, "None: this version of the image was answered by no other model, and it replaced no other.")
      : el("ul", { class: "rows" }, earlier.map((entry) => el(
          "li",
          {},
          el("div", {}, el("strong", {}, entry.label ?? "rejected"), ` ${entry.confidence === null || entry.confidence === undefined ? "" : percentOf(entry.confidence)} `, el("span", { class: "quiet" }, `${entry.stage}, ${modelName(entry.model)}`)),
          el("div", { class: "quiet small-text" }, `uploaded ${format.time(entry.uploaded_at)}`),
          isOther(entry) ? el("button", { class: "button small", type: "button", "data-test": "version-show", onclick: () => show(entry) }, "Show this version") : null,
        ))),
  );
}

/** Whether a review is of another version of the image than `record`. */
function isOfOtherVersion(review, record) {
  const version = record && (record.image.version_id ?? record.image.etag);
  return Boolean(version && review.object_version && review.object_version !== version);
}

/** The verdict in force and every review, newest first; `record` says which version of the image is shown. */
export function reviewsPanel({ reviews, verdict }, record = null, action = null) {
  const list = [...reviews].sort((a, b) => String(b.reviewed_at).localeCompare(String(a.reviewed_at)));
  const words = { confirm: "confirmed", correct: "corrected to", undo: "took back the verdict" };
  return panel(
    "Reviews",
    "panel-reviews",
    el(
      "div",
      { class: "panel-body stack" },
      verdict
        ? el("p", { class: "verdict-line", "data-test": "verdict" }, icon("check"), el("span", {}, "Verdict: ", el("strong", {}, verdict.label), ` by ${verdict.reviewer}, ${format.time(verdict.reviewed_at)}`))
        : el("p", { class: "quiet" }, "Nobody has reviewed this image."),
      verdict && isOfOtherVersion(verdict, record)
        ? el("p", { class: "hint", "data-test": "verdict-other-version" }, icon("warning"), el("span", {}, "This verdict is on an earlier version of the image, which was replaced since."))
        : null,
      list.length > 0
        ? el("ul", { class: "rows" }, list.map((review) => el(
            "li",
            { "data-test": "review-entry" },
            el("div", {}, el("strong", {}, review.reviewer), ` ${words[review.action] ?? "said"} `, review.action === "undo" ? null : el("strong", {}, review.label)),
            el("div", { class: "quiet small-text" }, [format.time(review.reviewed_at), review.predicted ? `the model said ${review.predicted}` : null, review.model ? modelName(review.model) : null, isOfOtherVersion(review, record) ? "of an earlier version of the image" : null].filter(Boolean).join(" · ")),
            review.note ? el("p", { class: "note" }, review.note) : null,
          )))
        : null,
      action,
    ),
  );
}

/** The records as they are stored. */
export function rawPanel(results, isOpen, toggled) {
  const text = (record) => JSON.stringify(record, null, 2);
  const details = el(
    "details",
    { class: "panel raw", open: isOpen, "data-test": "raw" },
    el("summary", {}, "Raw record (JSON)"),
    results.map((record) => el(
      "div",
      { class: "panel-body stack" },
      el("div", { class: "toolbar" }, el("strong", {}, record.stage), el("span", { class: "push" }, copyButton(() => text(record), "Copy JSON"))),
      el("pre", { tabindex: 0, role: "group", "aria-label": `Record of ${record.stage}` }, text(record)),
    )),
  );
  details.addEventListener("toggle", () => toggled(details.open));
  return details;
}
