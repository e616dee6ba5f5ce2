// What stands beside the review queue: verdicts of this sitting, agreement of model and reviewers, the golden set.
//
// Draws and asks only; the queue decides what is sent. Invariant: a verdict that is not saved is said to be so.

import { api, copyButton, el, format, icon, nameOf, replaceChildren, stateBox } from "./core.js";
import { modelName, panel } from "./answer.js";

/** Verdicts that are listed. */
const LISTED = 6;

const STATES = { sending: ["retry", "saving…"], sent: ["check", "saved"], unsent: ["warning", "not saved yet"] };

/** The last verdicts, newest first, each to be taken back. */
export function doneList(queue, href, undo) {
  const entries = queue.done.slice(-LISTED).reverse();
  if (entries.length === 0) return el("p", { class: "panel-note quiet" }, "None yet in this sitting.");
  return el("ul", { class: "rows" }, entries.map((entry) => {
    const [picture, words] = STATES[entry.state];
    const isConfirm = entry.body.action === "confirm";
    return el(
      "li",
      { "data-test": "done-entry", "data-state": entry.state },
      el("div", { class: "toolbar" },
        el("a", { href: href("/image", { key: entry.body.key }) }, nameOf(entry.body.key)),
        el("button", { class: "button small push", type: "button", disabled: entry.isUndoing, "aria-label": `Undo the verdict on ${nameOf(entry.body.key)}`, onclick: () => undo(entry) }, entry.isUndoing ? "Undoing…" : "Undo")),
      el("div", {}, isConfirm ? "confirmed " : "corrected to ", el("strong", {}, entry.label ?? ""), " ", el("span", { class: entry.state === "unsent" ? "decision decision-positive" : "quiet" }, icon(picture), words)),
    );
  }));
}

/** What could not be saved, or `null`. */
export function unsentPanel(queue) {
  const entries = queue.done.filter((entry) => entry.state === "unsent");
  if (entries.length === 0) return null;
  return el(
    "section",
    { class: "panel unsent", role: "alert", "data-test": "unsent" },
    el("h2", {}, `${format.plural(entries.length, "verdict is", "verdicts are")} not saved yet`),
    el(
      "div",
      { class: "panel-body stack" },
      el("p", {}, entries[0].problem ?? "They are being sent."),
      el("p", { class: "quiet" }, "Nothing is lost: they are sent again by themselves, also after this page was closed and opened again. You can go on."),
      el("div", {}, el("button", { class: "button", type: "button", "data-test": "unsent-retry", onclick: () => queue.retry() }, icon("retry"), "Send now")),
    ),
  );
}

/** Agreement of the models with the reviewers; `load()` asks anew. */
export class Agreement {
  constructor({ stage, signal }) {
    this.stage = stage;
    this.signal = signal;
    this.body = el("div", {}, el("p", { class: "panel-note quiet" }, "Loading…"));
    this.element = panel("Model and reviewers", "agreement", this.body);
  }

  async load() {
    let models;
    try {
      ({ models } = await api.get("/api/agreement", { stage: this.stage }, { signal: this.signal }));
    } catch (error) {
      if (this.signal.aborted) return;
      replaceChildren(this.body, el("p", { class: "panel-note" }, `Could not be read: ${error.detail ?? error}`));
      return;
    }
    const reviewed = models.filter((one) => one.reviewed > 0);
    replaceChildren(
      this.body,
      reviewed.length === 0
        ? el("p", { class: "panel-note quiet" }, "As soon as images are reviewed, this says how often reviewers and model agree.")
        : reviewed.map((one) => this.#model(one)),
    );
  }

  #model({ model, reviewed, agreed, agreement_percent: percent, interval_percent: interval, matrix }) {
    const predicted = Object.keys(matrix ?? {}).sort();
    const verdicts = [...new Set(predicted.flatMap((label) => Object.keys(matrix[label])))].sort();
    return el(
      "div",
      { class: "panel-body stack" },
      el("div", {},
        el("p", { class: "quiet" }, modelName(model)),
        el("p", { class: "figure-line", "data-test": "agreement-figure" }, format.percent(percent, 1), " ", el("span", { class: "quiet small-text within" }, `95 % interval ${format.interval(interval)}`)),
        el("p", { class: "quiet" }, `${format.count(agreed)} of ${format.plural(reviewed, "reviewed image")} with the same label. Reviewed are mostly images that the model was unsure of, so this is not an accuracy on all images.`)),
      predicted.length > 0
        ? el("div", { class: "table-scroll", tabindex: 0, role: "group", "aria-label": `Labels of ${modelName(model)} and of reviewers` }, el("table", { class: "compact" },
            el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "model ↓ reviewer →"), verdicts.map((label) => el("th", { scope: "col", class: "number" }, label)))),
            el("tbody", {}, predicted.map((label) => el("tr", {}, el("th", { scope: "row" }, label), verdicts.map((verdict) => {
              const count = matrix[label][verdict] ?? 0;
              return el("td", { class: `number${count > 0 && label !== verdict ? " differs-mark" : ""}` }, format.count(count));
            }))))))
        : null,
    );
  }
}

/** One click from reviewed images to a golden set, and what to do with it. */
export function goldenPanel({ announce }) {
  const result = el("div", { "aria-live": "polite" });
  const button = el("button", { class: "button", type: "button", "data-test": "golden-export" }, "Export reviewed images as a golden set");
  let isRunning = false;
  button.addEventListener("click", async () => {
    // Not `disabled`, which would take the focus from it.
    if (isRunning) return;
    isRunning = true;
    replaceChildren(result, el("p", { class: "quiet" }, "Copying…"));
    try {
      const set = await api.post("/api/golden-sets", {});
      replaceChildren(result, set.images === 0 ? nothingToExport() : exported(set));
      announce(set.images === 0 ? "There is nothing to export yet." : `The golden set is made, with ${format.plural(set.images, "image")}.`);
    } catch (error) {
      replaceChildren(result, stateBox({ kind: "error", title: "The golden set could not be made", text: error.detail ?? String(error), action: { label: "Try again", run: () => button.click() } }));
    } finally {
      isRunning = false;
    }
  });
  return panel("Golden set", "golden", el("div", { class: "panel-body stack" }, el("p", { class: "quiet" }, "Copies every reviewed image under the label of its reviewer. A model must get a golden set right before it may serve."), el("div", {}, button), result));
}

const nothingToExport = () => el("p", {}, "No image has a verdict yet: review some first.");

function exported({ prefix, images, labels, command }) {
  return el(
    "div",
    { class: "stack", "data-test": "golden-result" },
    el("p", {}, icon("check"), ` ${format.plural(images, "image")} (${Object.entries(labels).map(([label, count]) => `${label} ${format.count(count)}`).join(", ")}) are in `, el("code", { "data-test": "golden-prefix" }, prefix), " of the model bucket."),
    el("p", {}, "To hold models against it, put it in the place of the golden set:"),
    el("div", { class: "command" }, el("code", { "data-test": "golden-command" }, command), copyButton(() => command)),
  );
}
