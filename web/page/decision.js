// What an answer means to a reader: one of seven decisions, each with a word, an icon and a colour.
//
// Takes cells (`/api/slide/cells`) and records alike. Invariant: nothing is told by colour alone, and an image that
// needs a look is never shown as plainly negative.

import { el, icon } from "./dom.js";

/** Decisions, what is most urgent first; `word` is shown, `help` explains it. */
export const DECISIONS = {
  positive: { word: "Positive", help: "the label counts as positive in the slide's figure" },
  review: { word: "Needs a look", help: "answered, but a person should look before it counts" },
  outlier: { word: "No cell?", help: "like nothing the model was trained on: debris, a blank field, or a rare form" },
  rejected: { word: "Rejected", help: "could not be classified; the reason is with the image" },
  negative: { word: "Negative", help: "the label does not count as positive" },
  neutral: { word: "Answered", help: "the model names no positive label" },
  withdrawn: { word: "Withdrawn", help: "a person took it out of what counts; it is in no figure" },
};

/** The decision's name, a key of `DECISIONS`, of a cell or record. */
export function decisionOf(cell) {
  if (cell.withdrawn) return "withdrawn";
  if (cell.status === "rejected") return "rejected";
  if (cell.outlier === true) return "outlier";
  if (cell.positive === true) return "positive";
  if (cell.needs_review) return "review";
  return cell.positive === false ? "negative" : "neutral";
}

/** Icon and word of a decision. */
export function decisionBadge(name, word = DECISIONS[name].word) {
  return el("span", { class: `decision decision-${name}`, title: DECISIONS[name].help }, icon(name), el("span", {}, word));
}
