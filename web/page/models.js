// The models view: what serves in each stage since when, two stages compared, gate reports, and every release.
//
// Reads only; `giemsa model` releases. Invariant: a stage whose new file is refused says so before anything else of it.

import { api, el, format, icon, replaceChildren, skeleton, stateBox } from "./core.js";
import { digest, facts, modelName, panel } from "./answer.js";
import { Comparison } from "./models_comparison.js";
import { showReport, verdictOf, verdictTag } from "./models_report.js";

/** Pause between two looks, ms. */
const EVERY_MS = 10_000;

export async function show(root, query, context) {
  const sha256 = query.get("report");
  if (sha256) return showReport(root, sha256, context);
  const body = el("div", { class: "sections" }, skeleton(8, "Loading the models"));
  root.append(el("h1", {}, "Models"), body);
  const models = await api.get("/api/models", {}, { signal: context.signal });
  const serving = el("div", { class: "columns" });
  const reports = el("div");
  const ledger = el("div");
  const comparison = new Comparison(context, models.stages);
  replaceChildren(
    body,
    el("section", { "aria-labelledby": "serving-title" }, el("h2", { id: "serving-title" }, "In service"), serving),
    comparison.element,
    el("section", { "aria-labelledby": "reports-title" }, el("h2", { id: "reports-title" }, "Gate reports"), reports),
    el("section", { "aria-labelledby": "ledger-title" }, el("h2", { id: "ledger-title" }, "Every release"), ledger),
    el("p", { class: "quiet small-text" }, context.settings.software, " · ", el("a", { href: "/licenses.txt", target: "_blank", rel: "noopener" }, "Licences of what it is made of")),
  );
  let drawn = "";
  const draw = (now) => {
    const text = JSON.stringify(now);
    if (text === drawn) return;
    drawn = text;
    replaceChildren(serving, now.stages.map((stage) => stageCard(stage, now.reports, context)));
    replaceChildren(reports, reportTable(now.reports, now.stages, context));
    replaceChildren(ledger, ledgerTable(now.ledger));
  };
  draw(models);
  comparison.load();
  context.every(EVERY_MS, async () => draw(await api.get("/api/models", {}, { signal: context.signal, same: true })));
}

function stageCard({ stage, model, since, refused }, reports, { href }) {
  const report = model && reports.find((one) => one.sha256 === model.sha256);
  return panel(
    stage,
    `stage-${stage}`,
    refused ? el("p", { class: "state-line bad", role: "alert", "data-test": "refused" }, icon("warning"), el("span", {}, `The file in its place is refused${model ? `, and ${modelName(model)} serves on` : ", so nothing is answered and uploads wait"}: ${refused}`)) : null,
    model
      ? el("div", { class: "panel-body" }, facts([
          ["Model", el("strong", {}, model.name)],
          ["Version", model.version],
          ["Digest", digest(model.sha256)],
          ["Serves since", since ? [format.time(since), " ", el("span", { class: "quiet" }, `(${format.relative(since)})`)] : null],
          ["Gate", report ? el("a", { href: href("/models", { report: report.sha256 }) }, verdictOf(report).words) : "no report of this file"],
        ], "serving"))
      : el("div", { class: "panel-body stack" }, el("p", {}, "No model has served here yet."), el("p", { class: "quiet" }, "Put one in its place with ", el("code", {}, `giemsa model promote my-model.onnx --stage ${stage}`), ", or copy it to ", el("code", {}, `${stage}/model.onnx`), " of the model bucket.")),
  );
}

function reportTable(reports, stages, { href }) {
  if (reports.length === 0) {
    return stateBox({ kind: "empty", title: "No model has been checked yet", text: "The gate tries every file that is put in the place of a stage's model on the golden set, and writes a report." });
  }
  const where = (sha256) => stages.filter((stage) => stage.model?.sha256 === sha256).map((stage) => stage.stage);
  return el("div", { class: "table-frame", tabindex: 0, role: "group", "aria-label": "Gate reports" }, el("table", { "data-test": "reports" },
    el("thead", {}, el("tr", {}, ["Model", "Digest", "Outcome", "Checked", "Serves in"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, reports.map((report) => el("tr", {},
      el("th", { scope: "row" }, el("a", { href: href("/models", { report: report.sha256 }), "data-test": "report-open" }, report.name ? modelName(report) : "a file that cannot be read")),
      el("td", {}, digest(report.sha256)),
      el("td", {}, verdictTag(report)),
      el("td", { class: "nowrap" }, format.time(report.checked_at)),
      el("td", {}, where(report.sha256).join(", ") || "–"))))));
}

function ledgerTable(ledger) {
  if (ledger.length === 0) return stateBox({ kind: "empty", title: "Nothing was released yet", text: "Every change of a stage's model is noted here." });
  return el("div", { class: "table-frame", tabindex: 0, role: "group", "aria-label": "Releases" }, el("table", { "data-test": "ledger" },
    el("thead", {}, el("tr", {}, ["Since", "Stage", "Model", "Digest"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ledger.map((entry) => el("tr", {},
      el("td", { class: "nowrap" }, format.time(entry.released_at)),
      el("td", {}, entry.stage),
      el("th", { scope: "row" }, modelName(entry.model)),
      el("td", {}, digest(entry.model.sha256)))))));
}
