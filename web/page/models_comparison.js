// Development against production: how often they agree, and the images on which they do not.
//
// Reads `/api/models/compare`; it does not say which model to serve. Invariant: a share is never shown without its
// interval and of how many images it is.

import { api, el, format, icon, nameOf, replaceChildren, skeleton, slideOf, stateBox } from "./core.js";
import { modelName } from "./answer.js";

const DAYS = [1, 7, 30];

/** A share (0 to 1, with its interval) in words. */
export function share(proportion) {
  if (!proportion) return "–";
  const percent = (value) => (value * 100).toFixed(1);
  return [
    el("strong", {}, `${percent(proportion.value)} %`),
    " ",
    el("span", { class: "quiet" }, `(${percent(proportion.low)}–${percent(proportion.high)} %; ${format.count(proportion.count)} of ${format.count(proportion.of)})`),
  ];
}

const CONCLUSIONS = {
  nothing_to_compare: "There is no image yet that both models answered. Uploads are given to both by themselves; wait for some, or ask for more days.",
  no_verdicts: "Nobody has said yet which answers are right. Review the images below on which the models differ.",
  candidate_better: "Against the reviewers' verdicts, the model of development is right significantly more often.",
  candidate_worse: "Against the reviewers' verdicts, the model of development is right significantly less often.",
  no_difference_shown: "Against the reviewers' verdicts, neither model is shown to be better.",
};

export class Comparison {
  constructor(context, stages) {
    this.context = context;
    this.days = 7;
    this.body = el("div");
    const select = el("select", { id: "comparison-days", "data-test": "comparison-days" }, DAYS.map((days) => el("option", { value: days, selected: days === this.days }, days === 1 ? "last day" : `last ${days} days`)));
    select.addEventListener("change", () => { this.days = Number(select.value); this.load(); });
    const [reference, candidate] = stages;
    this.hasTwo = stages.length > 1;
    this.element = el(
      "section",
      { "aria-labelledby": "comparison-title", "data-test": "comparison" },
      el("div", { class: "toolbar" },
        el("h2", { id: "comparison-title" }, this.hasTwo ? `${candidate.stage} against ${reference.stage}` : "Development against production"),
        this.hasTwo ? el("span", { class: "field push" }, el("label", { for: "comparison-days", class: "quiet" }, "Images of the"), select) : null),
      this.body,
    );
  }

  async load() {
    if (!this.hasTwo) {
      replaceChildren(this.body, stateBox({ kind: "empty", title: "There is only one stage", text: "With a stage for development, every upload is answered by both models and this compares them." }));
      return;
    }
    this.turn?.abort();
    this.turn = new AbortController();
    const signal = AbortSignal.any([this.turn.signal, this.context.signal]);
    replaceChildren(this.body, skeleton(4, "Comparing"));
    try {
      const comparison = await api.get("/api/models/compare", { days: this.days }, { signal });
      replaceChildren(this.body, this.#draw(comparison));
    } catch (error) {
      if (signal.aborted) return;
      const isMissing = error.status === 404;
      replaceChildren(this.body, stateBox({ kind: isMissing ? "empty" : "error", title: isMissing ? "Nothing to compare yet" : "The stages could not be compared", text: error.detail ?? String(error), action: { label: "Try again", run: () => this.load() } }));
    }
  }

  #draw(comparison) {
    const { candidate, reference, verdicts, positives } = comparison;
    const isSame = candidate.model.sha256 === reference.model.sha256;
    const words = isSame ? "Both stages serve the same model, so there is nothing to decide." : CONCLUSIONS[comparison.conclusion] ?? comparison.conclusion;
    const speed = (side) => (side.speed ? `${side.speed.median_ms.toFixed(1)} ms (95 % below ${side.speed.p95_ms.toFixed(1)} ms)` : "–");
    const row = (name, value) => el("tr", {}, el("th", { scope: "row" }, name), value);
    const both = (value) => el("td", { colspan: 2 }, value);
    return el(
      "div",
      { class: "panel" },
      el("p", { class: "state-line", "data-test": "conclusion" }, icon("help"), el("span", {}, words)),
      el("div", { class: "table-scroll", tabindex: 0, role: "group", "aria-label": "Figures of both stages" }, el("table", {},
        el("thead", {}, el("tr", {}, el("td", {}), [candidate, reference].map((side) => el("th", { scope: "col" }, `${side.stage}: ${modelName(side.model)}`)))),
        el("tbody", {},
          row("Same label", both([el("span", { "data-test": "agreement" }, share(comparison.agreement))])),
          row("Only one could classify", both(format.plural(comparison.classified_by_one, "image"))),
          comparison.without_reference > 0 ? row("Answered by the first only", both(format.plural(comparison.without_reference, "image"))) : null,
          positives ? row("Positive in one stage only", [el("td", {}, format.count(positives.only_candidate)), el("td", {}, format.count(positives.only_reference))]) : null,
          verdicts ? row("Right, by reviewers", [el("td", {}, share(verdicts.candidate_accuracy)), el("td", {}, share(verdicts.reference_accuracy))]) : null,
          row("Time for an image", [el("td", {}, speed(candidate)), el("td", {}, speed(reference))])))),
      this.#flips(comparison),
    );
  }

  #flips({ flips, candidate, reference, images }) {
    if (flips.length === 0) {
      return images > 0 ? el("p", { class: "panel-note" }, "There is no image to which they give different labels.") : null;
    }
    return el("div", { class: "panel-body stack" },
      el("h3", {}, "Images with different labels"),
      flips.map((flip) => el(
        "details",
        { "data-test": "flip" },
        el("summary", {}, el("strong", {}, format.plural(flip.images, "image")), `: ${reference.stage} says ${flip.reference}, ${candidate.stage} says ${flip.candidate}`),
        el("ul", {}, flip.first.map(({ key }) => el("li", {}, el("a", { href: this.context.href("/image", { key }), title: key }, slideOf(key) ? `${slideOf(key)} / ${nameOf(key)}` : key)))),
        flip.images > flip.first.length ? el("p", { class: "quiet" }, `The first ${flip.first.length} are listed; `, el("code", {}, "giemsa model compare"), " lists more.") : null,
      )));
  }
}
