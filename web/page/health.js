// The health view: whether every upload is answered, and what to do where it is not.
//
// Reads `/api/health` and the summary by day. Invariant: what is unknown is said to be unknown, never shown as well;
// wherever something must be done, a sentence says what.

import { api, connection, copyButton, el, format, icon, nameOf, replaceChildren, skeleton, stateBox, svg } from "./core.js";
import { panel } from "./answer.js";

/** Pause between two looks, ms. */
const EVERY_MS = 3_000;

/** Pause between two looks at the summary by day, ms. */
const SUMMARY_MS = 30_000;

/** Samples kept for the lines, about ten minutes. */
const SAMPLES = 200;

/** An upload that waits longer than this is said as a warning, seconds. */
const LONG_SECONDS = 120;

/** Share of rejected images from which it is said, and images from which a share says anything. */
const MANY_REJECTED = 0.1;
const ENOUGH_IMAGES = 20;

/** Days of the summary. */
const DAYS = 14;

/** Stage to samples of what waits, oldest first; kept while the page is open. */
const history = new Map();

export async function show(root, query, context) {
  const stages = el("div", { class: "columns" }, skeleton(8, "Loading the state"));
  const gate = el("div");
  const unavailable = el("div", { class: "stack", role: "status" });
  const days = el("div");
  const stamp = el("span", { class: "quiet", "data-test": "health-stamp" });
  root.append(
    el("div", { class: "toolbar review-head" }, el("h1", {}, "Health"), el("span", { class: "push" }, stamp)),
    el("div", { class: "sections" }, unavailable, stages, gate, el("section", { "aria-labelledby": "days-title" }, el("h2", { id: "days-title" }, `Uploads of the last ${DAYS} days in ${context.stage}`), days)),
  );
  let drawn = "";
  context.every(EVERY_MS, async () => {
    let now;
    try {
      now = await api.get("/api/health", {}, { signal: context.signal });
    } catch (error) {
      // What was shown stays, with the time that it is of; the banner says that the server is away.
      if (!drawn && !context.signal.aborted) replaceChildren(stages, stateBox({ kind: "error", title: "The state could not be read", text: error.detail ?? String(error) }));
      stamp.textContent = drawn ? `as of ${format.time(connection.answeredAt)}` : "";
      throw error;
    }
    for (const stage of now.stages) remember(stage);
    stamp.textContent = `as of ${format.time(Date.now())}`;
    const text = JSON.stringify(now) + [...history.values()].map((samples) => samples.length > 2 && samples.at(-1).open !== samples[0].open ? samples.length : 0);
    if (text === drawn) return;
    drawn = text;
    keepFocus(stages, () => replaceChildren(stages, now.stages.map((stage) => stagePanel(stage, context))));
    replaceChildren(unavailable, (now.unavailable ?? []).map((sentence) => el("p", { class: "hint", "data-test": "unavailable" }, icon("warning"), el("span", {}, `Could not be read just now: ${sentence}`))));
    replaceChildren(gate, now.gate ? gatePanel(now.gate) : null);
  });
  context.every(SUMMARY_MS, async () => {
    try {
      const from = new Date(Date.now() - (DAYS - 1) * 86_400_000).toISOString().slice(0, 10);
      const until = new Date(Date.now() + 86_400_000).toISOString().slice(0, 10);
      const summary = await api.get("/api/summary", { stage: context.stage, from, until }, { signal: context.signal });
      replaceChildren(days, dayTable(summary.days, context.settings.positive_labels));
    } catch (error) {
      if (!context.signal.aborted && !days.hasChildNodes()) replaceChildren(days, stateBox({ kind: "error", title: "The days could not be read", text: error.detail ?? String(error) }));
      throw error;
    }
  });
}

/** Draws anew; a link or button that had the focus has it again. */
function keepFocus(root, draw) {
  const test = root.contains(document.activeElement) ? document.activeElement.getAttribute("data-focus") : null;
  draw();
  if (test) [...root.querySelectorAll("[data-focus]")].find((element) => element.getAttribute("data-focus") === test)?.focus({ preventScroll: true });
}

const openOf = (queue) => (queue ? (queue.waiting ?? 0) + (queue.in_flight ?? 0) : null);

function remember({ stage, queue }) {
  const samples = history.get(stage) ?? [];
  samples.push({ at: Date.now(), open: openOf(queue) });
  history.set(stage, samples.slice(-SAMPLES));
}

/** What is to be said of a stage, worst first: `[urgency, words, command]`. */
export function sentencesOf({ stage, queue, failing, answered_last_hour: answered, rejected_last_hour: rejected }) {
  const said = [];
  const open = openOf(queue);
  if (queue?.dead_letters > 0) {
    said.push(["bad", `${format.plural(queue.dead_letters, "upload was", "uploads were")} given up after all tries and ${queue.dead_letters === 1 ? "has" : "have"} no answer. See why, remove the cause, and send them again:`, "giemsa dlq list"]);
  }
  if (failing.length > 0) {
    said.push(["warn", `${format.plural(failing.length, "image fails", "images fail")} and ${failing.length === 1 ? "is" : "are"} tried again. The reasons are below.`]);
  }
  if (queue?.oldest_age_seconds > LONG_SECONDS) {
    said.push(["warn", `The oldest upload waits for ${format.duration(queue.oldest_age_seconds)}. If the number below does not go down, nothing answers ${stage}: look at the models page whether one serves, and at the log.`]);
  }
  if (answered === null || answered === undefined) said.push(["warn", "What was answered in the last hour could not be read."]);
  else if (answered >= ENOUGH_IMAGES && rejected / answered >= MANY_REJECTED) {
    said.push(["warn", `${((100 * rejected) / answered).toFixed(0)} % of the images of the last hour were rejected. Mostly something is wrong with the files: open the slides concerned, the reason is with each image.`]);
  }
  if (queue === null) said.push(["warn", "The queue is not known to this program, so it cannot be said whether uploads wait. Compare uploads with results:", "giemsa reconcile"]);
  else if (queue.dead_letters === null || queue.dead_letters === undefined) said.push(["warn", "No dead-letter queue is known, so it cannot be said whether uploads were given up. Compare uploads with results:", "giemsa reconcile"]);
  if (said.length === 0) {
    said.push(open > 0
      ? ["idle", `${format.plural(open, "upload is", "uploads are")} being answered.`]
      : ["good", answered > 0 ? "Nothing waits: what came was answered." : "Nothing waits. No image came in the last hour."]);
  }
  return said;
}

const PICTURES = { bad: "warning", warn: "warning", idle: "retry", good: "check" };

function stagePanel(health, context) {
  const { stage, queue, failing, answered_last_hour: answered, rejected_last_hour: rejected, median_ms: median } = health;
  const open = openOf(queue);
  const rate = answered > 0 ? `${((100 * rejected) / answered).toFixed(1)} %` : "–";
  return panel(
    stage,
    `health-${stage}`,
    sentencesOf(health).map(([urgency, words, command]) => el("div", { class: `state-line ${urgency}`, "data-test": "health-sentence", "data-urgency": urgency }, icon(PICTURES[urgency]), el("div", { class: "stack" }, el("span", {}, words), command ? el("span", { class: "toolbar" }, el("code", {}, command), focusable(copyButton(() => command), `${stage}-${command}`)) : null))),
    el("div", { class: "gauges" },
      gauge("Unanswered", open === null ? "unknown" : format.count(open), queue ? `${format.count(queue.waiting)} wait, ${format.count(queue.in_flight)} at work` : "", open > 0 && queue.oldest_age_seconds > LONG_SECONDS ? "warn" : "", "gauge-unanswered"),
      gauge("Oldest waits", queue?.oldest_age_seconds === null || queue?.oldest_age_seconds === undefined ? "–" : format.duration(queue.oldest_age_seconds), "", queue?.oldest_age_seconds > LONG_SECONDS ? "warn" : "", "gauge-oldest"),
      gauge("Given up", queue?.dead_letters === null || queue?.dead_letters === undefined ? "unknown" : format.count(queue.dead_letters), "dead letters", queue?.dead_letters > 0 ? "bad" : "", "gauge-dead"),
      gauge("Answered", format.count(answered), "of the last hour's uploads", "", "gauge-answered"),
      gauge("Rejected", rate, `${format.count(rejected)} of them`, answered >= ENOUGH_IMAGES && rejected / answered >= MANY_REJECTED ? "warn" : "", "gauge-rejected"),
      gauge("Speed", health.images_per_minute === null || health.images_per_minute === undefined ? "–" : format.count(Math.round(health.images_per_minute)), "images in the last minute", "", "gauge-speed"),
      gauge("One image", median ? `${(median.fetch + median.decode + median.preprocess + median.infer).toFixed(1)} ms` : "–", median ? `fetch ${median.fetch.toFixed(1)}, decode ${median.decode.toFixed(1)}, preprocess ${median.preprocess.toFixed(1)}, network ${median.infer.toFixed(1)}` : "median, by step", "", "gauge-median")),
    line(stage),
    failing.length > 0 ? failingTable(failing, stage, context) : null,
  );
}

function focusable(element, name) {
  element.setAttribute("data-focus", name);
  return element;
}

function gauge(name, value, more, urgency, test) {
  return el("div", { class: "gauge", "data-test": test }, el("span", { class: "quiet small-text" }, name), el("span", { class: `gauge-value ${urgency}` }, urgency ? icon("warning") : null, urgency ? " " : null, value), more ? el("span", { class: "quiet small-text" }, more) : null);
}

/** How many uploads were unanswered since this page was opened. */
function line(stage) {
  const samples = (history.get(stage) ?? []).filter((sample) => sample.open !== null);
  const most = Math.max(0, ...samples.map((sample) => sample.open));
  if (samples.length < 3 || most === 0) return null;
  const first = samples[0].at;
  const span = Math.max(1, samples.at(-1).at - first);
  const points = samples.map((sample) => `${((sample.at - first) / span) * 300},${72 - (sample.open / most) * 68}`).join(" ");
  const words = `Unanswered uploads since ${format.time(first)}: at most ${format.count(most)}, now ${format.count(samples.at(-1).open)}`;
  return el("div", { class: "panel-body" }, svg("svg", { class: "trend", viewBox: "0 0 300 76", preserveAspectRatio: "none", role: "img", "aria-label": words }, svg("polyline", { class: "trend-line", points })), el("p", { class: "quiet small-text" }, words));
}

function failingTable(failing, stage, { href }) {
  return el("div", { class: "table-scroll", tabindex: 0, role: "group", "aria-label": `Failing images of ${stage}` }, el("table", { "data-test": "failing" },
    el("thead", {}, el("tr", {}, ["Image", "Reason", "Tried"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, failing.map((image) => el("tr", {},
      el("th", { scope: "row" }, focusable(el("a", { href: href("/image", { key: image.key }), title: image.key }, nameOf(image.key)), `${stage}-${image.key}`)),
      el("td", {}, image.reason),
      el("td", { title: `first ${format.time(image.first_failed_at)}, last ${format.time(image.last_failed_at)}` }, `${format.plural(image.tries, "time")}, last ${format.relative(image.last_failed_at)}`))))));
}

function gatePanel(queue) {
  const open = openOf(queue);
  return panel(
    "Gate (checks of new models)",
    "health-gate",
    queue.dead_letters > 0
      ? el("div", { class: "state-line bad" }, icon("warning"), el("span", {}, `${format.plural(queue.dead_letters, "check was", "checks were")} given up. Copy the model to its place again, and look at the log if it happens again.`))
      : el("div", { class: `state-line ${open > 0 ? "idle" : "good"}` }, icon(open > 0 ? "retry" : "check"), el("span", {}, open > 0 ? `${format.plural(open, "model is", "models are")} being checked.` : "No model waits to be checked.")),
  );
}

function dayTable(days, positiveLabels) {
  if (days.length === 0) {
    return stateBox({ kind: "empty", title: "No uploads in these days", text: "Drop a folder of images on the slides page." });
  }
  const labels = [...new Set(days.flatMap((day) => Object.keys(day.labels)))].sort();
  const total = (day) => Object.values(day.labels).reduce((sum, count) => sum + count, 0) + day.rejected;
  const most = Math.max(1, ...days.map(total));
  const colour = (label) => (positiveLabels.includes(label) ? "var(--positive)" : "var(--negative)");
  const bar = (day) => el("div", { class: "day-bar", "aria-hidden": "true", style: { width: `${(100 * total(day)) / most}%` } },
    [...labels.map((label) => [day.labels[label] ?? 0, colour(label)]), [day.rejected, "var(--rejected)"]].filter(([count]) => count > 0).map(([count, background]) => el("div", { style: { width: `${(100 * count) / total(day)}%`, background } })));
  return el("div", { class: "table-frame", tabindex: 0, role: "group", "aria-label": "Uploads by day" }, el("table", { "data-test": "days" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Day (UTC)"), el("th", { scope: "col", class: "number" }, "Answered"), labels.map((label) => el("th", { scope: "col", class: "number" }, label)), el("th", { scope: "col", class: "number" }, "Rejected"), el("th", { scope: "col", class: "number" }, "Needs a look"), el("th", { scope: "col", class: "day-column" }, "positive, other, rejected"))),
    el("tbody", {}, days.map((day) => el("tr", {}, el("th", { scope: "row", class: "nowrap" }, day.date), el("td", { class: "number" }, format.count(total(day))), labels.map((label) => el("td", { class: "number" }, format.count(day.labels[label] ?? 0))), el("td", { class: "number" }, format.count(day.rejected)), el("td", { class: "number" }, format.count(day.needs_review)), el("td", { class: "day-column" }, bar(day)))))));
}
