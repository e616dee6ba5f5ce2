// What a model answered to one image, in the parts that the image view and the review queue share.
//
// Draws records (docs/record.schema.json) and decides nothing itself. Invariant: a text of a record is only ever text.

import { DECISIONS, decisionBadge, decisionOf, el, format, icon, nameOf } from "./core.js";

/** The answer in a few words, as it is read out: “parasitized, 62.3 %”. */
export function wordsOf(record) {
  if (record.status === "rejected") return `rejected: ${record.reject?.message ?? "no reason given"}`;
  return `${record.label}, ${percentOf(record.confidence)}`;
}

/** A probability as percent; never rounded up to certainty. */
export function percentOf(probability) {
  if (probability === null || probability === undefined) return "–";
  const rounded = (probability * 100).toFixed(1);
  return rounded === "100.0" && probability < 1 ? "> 99.9 %" : `${rounded} %`;
}

/** The reasons of a record for a human look, each a sentence. */
export function reasonsOf(record) {
  if (record.status === "rejected") return [record.reject?.message ?? "no reason was noted"];
  return (record.review_reason ?? "").split("; ").filter(Boolean);
}

/** Decision, label and confidence, and below why a person should look. */
export function answerBlock(record) {
  const decision = decisionOf(record);
  const reasons = reasonsOf(record);
  const isRejected = record.status === "rejected";
  return el(
    "div",
    { class: `answer answer-${decision}`, "data-test": "answer", "data-decision": decision },
    decisionBadge(decision),
    el(
      "p",
      { class: "answer-label", "data-test": "answer-label" },
      isRejected ? "Could not be classified" : record.label,
      isRejected ? null : el("span", { class: "answer-confidence" }, percentOf(record.confidence)),
    ),
    el("p", { class: "quiet small-text" }, isRejected && record.reject?.code ? `code: ${record.reject.code}` : DECISIONS[decision].help),
    reasons.length > 0
      ? el(
          "div",
          { class: "answer-reasons", "data-test": "review-reason" },
          el("p", {}, isRejected ? "Why:" : "Why a person should look:"),
          el("ul", {}, reasons.map((reason) => el("li", {}, reason))),
        )
      : null,
  );
}

/** Each label's probability as a bar, the most probable first; it reads as a table. */
export function probabilityBars(record, positiveLabels = []) {
  const rows = Object.entries(record.probabilities ?? {}).sort(([, a], [, b]) => b - a);
  return el(
    "table",
    { class: "bars", "data-test": "probabilities" },
    el("caption", { class: "visually-hidden" }, "Probability of each label"),
    el("thead", { class: "visually-hidden" }, el("tr", {}, el("th", { scope: "col" }, "Label"), el("th", { scope: "col" }, "Share"), el("th", { scope: "col" }, "Probability"))),
    el("tbody", {}, rows.map(([label, probability]) => el(
      "tr",
      {},
      el("th", { scope: "row" }, label, positiveLabels.includes(label) ? el("span", { class: "bars-sign", title: "counts as positive" }, icon("positive"), el("span", { class: "visually-hidden" }, " (counts as positive)")) : null),
      el("td", { class: "bars-track" }, el("div", { class: "bars-bar", style: { width: `${Math.max(0.5, probability * 100)}%` } })),
      el("td", { class: "bars-value" }, percentOf(probability)),
    ))),
  );
}

/** A list of terms; rows without a value are left out. */
export function facts(rows, test = null) {
  return el(
    "dl",
    { class: "facts", "data-test": test },
    rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]),
  );
}

/** First digits of a digest, the whole of it on hover and for copying. */
export const digest = (sha256) => el("code", { title: sha256, class: "digest" }, sha256?.slice(0, 12) ?? "–");

/** Name and version of a model in one word. */
export const modelName = (model) => (model ? `${model.name} ${model.version}`.trim() : "–");

/** Which model answered. */
export function modelFacts(record) {
  return facts([
    ["Model", record.model.name],
    ["Version", record.model.version],
    ["Digest", digest(record.model.sha256)],
    ["Answered", record.classified_at ? format.time(record.classified_at) : null],
    ["Software", record.software],
  ], "model");
}

/** How long each step took. */
export function timingFacts(record) {
  const times = record.timings_ms;
  if (!times) return el("p", { class: "quiet" }, "No timings were noted.");
  const steps = [["Fetch", times.fetch], ["Decode", times.decode], ["Preprocess", times.preprocess], ["Network", times.infer]];
  const total = steps.reduce((sum, [, ms]) => sum + ms, 0);
  return facts([...steps, ["In all", total]].map(([step, ms]) => [step, `${ms.toFixed(1)} ms`]), "timings");
}

/** What is known of the file. */
export function fileFacts(image) {
  return facts([
    ["File", nameOf(image.key)],
    ["Size", [image.width_px ? `${image.width_px} × ${image.height_px} px` : null, image.size_bytes === undefined ? null : format.bytes(image.size_bytes)].filter(Boolean).join(", ")],
    ["Format", image.format?.toUpperCase()],
    ["Uploaded", image.uploaded_at ? format.time(image.uploaded_at) : null],
    ["Version", image.version_id ? el("code", {}, image.version_id) : null],
    ["SHA-256", image.sha256 ? digest(image.sha256) : null],
  ], "file");
}

/** A part of a side panel with a heading. */
export function panel(title, test, ...children) {
  return el("section", { class: "panel", "aria-label": title, "data-test": test }, el("h2", {}, title), children);
}
