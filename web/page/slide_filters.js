// Which cells of a slide are shown and in which order, as it stands in the address.
//
// Pure. Invariant: what `toParams` writes, `filtersOf` reads back to the same, so that a view can be shared.

import { DECISIONS, decisionOf } from "./core.js";

/** Orders by their name in the address; the first is the usual one. */
export const SORTS = {
  suspicion: "Most suspicious first",
  newest: "Newest first",
  name: "By name",
};

/** What a reviewer did, by its name in the address. */
export const REVIEWED = {
  no: "Not reviewed",
  yes: "Reviewed",
  corrected: "Corrected",
};

const names = new Intl.Collator(undefined, { numeric: true });

/** A probability of the address, or `null`. */
function fraction(text) {
  if (text === null || text.trim() === "") return null;
  const value = Number(text);
  return Number.isFinite(value) && value >= 0 && value <= 1 ? value : null;
}

/** Filters of an address; what is unknown in it is left out. */
export function filtersOf(query) {
  const sort = query.get("sort");
  const reviewed = query.get("reviewed");
  return {
    sort: sort in SORTS ? sort : "suspicion",
    decisions: new Set((query.get("decision") ?? "").split(",").filter((name) => name in DECISIONS)),
    label: query.get("label"),
    needsReview: query.get("needs_review") === "true",
    reviewed: reviewed in REVIEWED ? reviewed : null,
    sameBytes: query.get("same_bytes") === "true",
    min: fraction(query.get("min")),
    max: fraction(query.get("max")),
  };
}

/** Parameters of the address; `null` where a filter is off. */
export function toParams(filters) {
  return {
    sort: filters.sort === "suspicion" ? null : filters.sort,
    decision: filters.decisions.size > 0 ? [...filters.decisions].join(",") : null,
    label: filters.label,
    needs_review: filters.needsReview ? "true" : null,
    reviewed: filters.reviewed,
    same_bytes: filters.sameBytes ? "true" : null,
    min: filters.min,
    max: filters.max,
  };
}

/** Whether any filter is on; an order is none. */
export function isFiltered(filters) {
  return Object.entries(toParams(filters)).some(([name, value]) => name !== "sort" && value !== null);
}

function isReviewedAs(cell, reviewed) {
  const { verdict } = cell;
  if (reviewed === "no") return !verdict;
  if (reviewed === "yes") return Boolean(verdict);
  return Boolean(verdict) && verdict !== cell.label;
}

/** Notes in `isTwin` of each cell whether another one that counts is the same bytes. */
export function markTwins(cells) {
  const counts = new Map();
  const counted = (cell) => cell.content && cell.status === "classified" && !cell.withdrawn;
  for (const cell of cells) if (counted(cell)) counts.set(cell.content, (counts.get(cell.content) ?? 0) + 1);
  for (const cell of cells) cell.isTwin = Boolean(counted(cell)) && counts.get(cell.content) > 1;
}

/** Whether a cell passes; withdrawn ones only if they are asked for. `but` names one filter that is left aside (`confidence` or `decisions`), for counts beside it. */
export function passes(cell, filters, but = null) {
  if (but !== "decisions" && filters.decisions.size > 0 && !filters.decisions.has(decisionOf(cell))) return false;
  if (but !== "decisions" && cell.withdrawn && !filters.decisions.has("withdrawn")) return false;
  if (filters.sameBytes && !cell.isTwin) return false;
  if (filters.label && cell.label !== filters.label) return false;
  if (filters.needsReview && !cell.needs_review) return false;
  if (filters.reviewed && !isReviewedAs(cell, filters.reviewed)) return false;
  if (but === "confidence" || (filters.min === null && filters.max === null)) return true;
  // What has no confidence is in no range of it.
  if (cell.confidence === null || cell.confidence === undefined) return false;
  return cell.confidence >= (filters.min ?? 0) && cell.confidence <= (filters.max ?? 1);
}

/** Name's place and upload time of each cell, by key: found once, because comparing names is slow. */
export function placesOf(cells) {
  const places = new Map();
  [...cells].sort((a, b) => names.compare(a.key, b.key)).forEach((cell, index) => {
    places.set(cell.key, { name: index, time: Date.parse(cell.uploaded_at) || 0 });
  });
  return places;
}

const ORDERS = {
  suspicion: (a, b, place) => b.suspicion - a.suspicion || place.get(a.key).name - place.get(b.key).name,
  newest: (a, b, place) => place.get(b.key).time - place.get(a.key).time || place.get(a.key).name - place.get(b.key).name,
  name: (a, b, place) => place.get(a.key).name - place.get(b.key).name,
};

/** Cells in an order; `places` is of at least these cells. */
export function ordered(cells, sort, places) {
  return [...cells].sort((a, b) => ORDERS[sort](a, b, places));
}

/** The cells that pass, in their order. */
export function select(cells, filters, places) {
  return ordered(cells.filter((cell) => passes(cell, filters)), filters.sort, places);
}
