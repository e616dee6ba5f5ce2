// The images beside one in its slide, in the order and with the filters of the slide view.
//
// Reads compact rows only. Invariant: a row that was seen keeps its place while one walks, so that no image is met
// twice or left out because a result arrived.

import { api } from "./core.js";
import { filtersOf, isFiltered, markTwins, ordered, passes, placesOf } from "./slide_filters.js";

/** Rows of one request. */
const PAGE = 2_000;

/** Rows that are read in search of one image. */
const MOST = 20_000;

export class Neighbours {
  constructor(stage, filters) {
    this.stage = stage;
    this.filters = filtersOf(new URLSearchParams(filters));
    // The server's order is by suspicion; any other, and every filter, needs all rows.
    this.needsAll = isFiltered(this.filters) || this.filters.sort !== "suspicion";
    this.slide = null;
    this.cells = [];
    this.cursor = undefined;
  }

  /** `{previous, next, position, count, isWhole}` of `key`; `position` counts from 1, `null` if it is not in the list. */
  async of(slide, key, signal) {
    if (slide !== this.slide) Object.assign(this, { slide, cells: [], cursor: undefined });
    const isIn = () => this.cells.some((cell) => cell.key === key);
    while (this.cursor !== null && this.cells.length < MOST && (this.needsAll || !isIn())) {
      const answer = await api.get("/api/slide/cells", { stage: this.stage, slide, limit: PAGE, cursor: this.cursor }, { signal });
      if (signal.aborted) return { previous: null, next: null, position: null, count: 0, isWhole: false };
      this.cells.push(...answer.cells);
      this.cursor = answer.next ?? null;
    }
    // The image itself stays in the list where a filter leaves it out by now, e.g. because it was reviewed.
    markTwins(this.cells);
    const all = ordered(this.cells, this.filters.sort, placesOf(this.cells));
    const listed = all.filter((cell) => cell.key === key || passes(cell, this.filters));
    const index = listed.findIndex((cell) => cell.key === key);
    return {
      previous: listed[index - 1] ?? null,
      next: index < 0 ? null : listed[index + 1] ?? null,
      position: index < 0 ? null : index + 1,
      count: listed.length,
      isWhole: this.cursor === null,
    };
  }
}
