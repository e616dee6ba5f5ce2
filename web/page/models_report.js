// One gate report: what a model did on the golden set, and whether it may serve.
//
// Draws docs/report.schema.json. Invariant: it says nothing that the report does not say.

import { api, el, format, icon, replaceChildren, skeleton, stateBox } from "./core.js";
import { digest, facts, panel, percentOf } from "./answer.js";
import { share } from "./models_comparison.js";

/** Rows of a list; the report itself has all. */
const LONGEST_LIST = 200;

/** What a report says in a word. */
export function verdictOf({ passed, waived }) {
  if (passed) return { words: "Passed", tag: "negative", picture: "check" };
  return waived ? { words: "Failed, waived", tag: "review", picture: "warning" } : { words: "Failed", tag: "positive", picture: "rejected" };
}

/** The same as a tag. */
export function verdictTag(report) {
  const { words, tag, picture } = verdictOf(report);
  return el("span", { class: `tag ${tag}` }, icon(picture), words);
}

export async function showReport(root, sha256, context) {
  const body = el("div", { class: "sections" }, skeleton(8, "Loading the report"));
  root.append(el("nav", { class: "crumbs", "aria-label": "Back" }, el("a", { href: context.href("/models") }, "Models"), icon("next"), el("span", {}, "Gate report")), body);
  let report;
  try {
    report = await api.get("/api/models/report", { sha256 }, { signal: context.signal });
  } catch (error) {
    if (error.status !== 404 && error.status !== 400) throw error;
    replaceChildren(body, stateBox({ kind: "empty", title: "There is no such report", text: error.detail, action: { label: "To the models", href: context.href("/models") } }));
    return;
  }
  const name = report.model.name ? `${report.model.name} ${report.model.version ?? ""}`.trim() : "A model that cannot be read";
  context.setTitle(`Report of ${name}`);
  replaceChildren(
    body,
    el("div", { class: "stack" },
      el("h1", { "data-test": "report-title" }, name),
      el("p", {}, verdictTag({ passed: report.passed, waived: Boolean(report.waiver) })),
      report.waiver ? el("p", { class: "hint" }, icon("warning"), el("span", {}, `${report.waiver.by} decided on ${format.time(report.waiver.at)} to let it serve: ${report.waiver.reason}`)) : null,
      list("Why it failed", report.failures, "report-failures"),
      list("To know", report.notes, "report-notes")),
    el("div", { class: "columns" },
      panel("Figures", "report-figures", el("div", { class: "panel-body" }, facts([
        ["Right", report.accuracy ? el("span", {}, share(report.accuracy)) : "–"],
        ["Sent to a person", report.needs_review ? el("span", {}, share(report.needs_review)) : "–"],
        ["Time for an image", report.speed ? `${report.speed.median_ms.toFixed(1)} ms, 95 % below ${report.speed.p95_ms.toFixed(1)} ms` : null],
        ["Golden set", `${format.plural(Object.values(report.golden.images).reduce((sum, count) => sum + count, 0), "image")}: ${Object.entries(report.golden.images).map(([label, count]) => `${label} ${count}`).join(", ")}`],
        ["Set's digest", digest(report.golden.digest)],
        ["File", [digest(report.model.sha256), ` ${format.bytes(report.model.size_bytes)}`]],
        ["Checked", `${format.time(report.made_at)} by ${report.software}`],
      ]))),
      report.production ? panel("Production on the same images", "report-production", el("div", { class: "panel-body" }, facts([
        ["Model", `${report.production.name} ${report.production.version}`],
        ["Right", report.production.accuracy ? el("span", {}, share(report.production.accuracy)) : "–"],
        ["Time for an image", report.production.speed ? `${report.production.speed.median_ms.toFixed(1)} ms` : null],
        ["Different answers", format.plural(report.production.differences.length, "image")],
      ]))) : null),
    labels(report),
    confusion(report),
    table("Wrong answers", "report-wrong", ["Image", "Should be", "Answer", "Confidence", "A person would have looked"], report.wrong.map((image) => [image.key, image.expected, image.answered, percentOf(image.confidence), image.needs_review ? "yes" : "no: nobody would have noticed"])),
    table("Not answered", "report-unreadable", ["Image", "Should be", "Why"], report.unreadable.map((image) => [image.key, image.expected, `${image.code}: ${image.message}`])),
    report.production ? table("Answered differently than in production", "report-differences", ["Image", "Should be", "Answer", "Production"], report.production.differences.map((image) => [image.key, image.expected, image.answered ?? "none", image.production_answered ?? "none"])) : null,
    el("p", { class: "quiet small-text" }, "The intervals are 95 % Wilson score intervals; they know only of the count of images, not of how well these stand for daily work."),
  );
}

function list(title, sentences, test) {
  if (sentences.length === 0) return null;
  return el("div", { "data-test": test }, el("h2", {}, title), el("ul", {}, sentences.map((sentence) => el("li", {}, sentence))));
}

function section(title, test, content) {
  return el("section", { "aria-label": title, "data-test": test }, el("h2", {}, title), el("div", { class: "table-frame", tabindex: 0, role: "group", "aria-label": title }, content));
}

function labels({ labels: figures }) {
  if (figures.length === 0) return null;
  return section("By label", "report-labels", el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Label"), el("th", { scope: "col", class: "number" }, "Images"), el("th", { scope: "col" }, "Sensitivity"), el("th", { scope: "col" }, "Specificity"))),
    el("tbody", {}, figures.map((figure) => el("tr", {}, el("th", { scope: "row" }, figure.label), el("td", { class: "number" }, format.count(figure.images)), el("td", {}, share(figure.sensitivity)), el("td", {}, share(figure.specificity)))))));
}

function confusion({ confusion: counts, labels: figures }) {
  const expected = figures.map((figure) => figure.label).filter((label) => counts[label]);
  if (expected.length === 0) return null;
  const answered = [...new Set([...figures.map((figure) => figure.label), ...expected.flatMap((label) => Object.keys(counts[label]))])];
  return section("Confusion", "report-confusion", el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "should be ↓ answer →"), answered.map((label) => el("th", { scope: "col", class: "number" }, label)))),
    el("tbody", {}, expected.map((label) => el("tr", {}, el("th", { scope: "row" }, label), answered.map((answer) => {
      const count = counts[label][answer] ?? 0;
      return el("td", { class: `number${count > 0 && answer !== label ? " differs-mark" : ""}` }, format.count(count));
    }))))));
}

function table(title, test, head, rows) {
  if (rows.length === 0) return null;
  const more = rows.length > LONGEST_LIST ? ` (the first ${LONGEST_LIST} of ${format.count(rows.length)})` : "";
  return section(title + more, test, el("table", {},
    el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows.slice(0, LONGEST_LIST).map(([first, ...others]) => el("tr", {}, el("th", { scope: "row" }, first), others.map((value) => el("td", {}, value)))))));
}
