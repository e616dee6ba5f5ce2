// The line under the header: uploads that wait for an answer, images that were given up, a server that is away.
//
// Reads `/api/health` only. Invariant: while something is unanswered, given up or unreachable, it is said on every page.

import { api, connection, el, format, icon, replaceChildren } from "./core.js";

const EVERY_MS = 3_000;

/** Waiting longer than this is said as a warning, seconds. */
const LONG_SECONDS = 120;

/** The last health that came, for views that show a part of it. */
export const health = { latest: null };

function sentences({ stages }, href) {
  const said = [];
  stages.forEach(({ stage, queue, failing }, index) => {
    // The first stage's answers count; another's are named.
    const where = index === 0 ? "" : ` (${stage})`;
    const open = (queue.waiting ?? 0) + (queue.in_flight ?? 0);
    if (queue.dead_letters > 0) {
      said.push({
        urgency: 2,
        parts: [
          `${format.plural(queue.dead_letters, "upload was", "uploads were")} given up without an answer${where}. `,
          el("a", { href: href("/health", { stage }) }, "See why and what to do"),
        ],
      });
    }
    if (open > 0) {
      const age = queue.oldest_age_seconds;
      const oldest = age === null || age === undefined ? "" : `, the oldest for ${format.duration(age)}`;
      said.push({ urgency: age > LONG_SECONDS ? 1 : 0, parts: [`${format.plural(open, "upload waits", "uploads wait")} for an answer${oldest}${where}.`] });
    }
    if (failing?.length > 0) {
      said.push({
        urgency: 1,
        parts: [
          `${format.plural(failing.length, "image fails", "images fail")} and will be tried again${where}. `,
          el("a", { href: href("/health", { stage }) }, "See the reasons"),
        ],
      });
    }
  });
  return said;
}

/** Keeps `banner` true for as long as the page is open. */
export function watchHealth(banner, { every, href }) {
  let lastWords = "";
  function draw() {
    const said = connection.lost
      ? [{
        urgency: 2,
        parts: [`The server does not answer since ${format.time(connection.answeredAt)}. What you see is from before; this page goes on by itself when it answers again.`],
      }]
      : health.latest ? sentences(health.latest, href) : [];
    const urgency = Math.max(0, ...said.map((one) => one.urgency));
    banner.hidden = said.length === 0;
    banner.className = `banner urgency-${urgency}`;
    const words = said.map((one) => one.parts.map((part) => part.textContent ?? part).join("")).join("\n");
    // Drawn only where the words changed, so that a link in it keeps the focus and nothing is spoken twice.
    if (words === lastWords) return;
    lastWords = words;
    // Ages that count up would be spoken every few seconds.
    banner.setAttribute("aria-live", urgency > 0 ? "polite" : "off");
    replaceChildren(banner, said.map((one) => el("p", { class: `urgency-${one.urgency}` }, icon(one.urgency > 0 ? "warning" : "retry"), el("span", {}, one.parts))));
  }
  // What sticks to the top of a view sticks below the banner.
  new ResizeObserver(() => document.documentElement.style.setProperty("--banner", `${banner.hidden ? 0 : banner.offsetHeight}px`)).observe(banner);
  connection.addEventListener("change", draw);
  every(EVERY_MS, async () => {
    try {
      health.latest = await api.get("/api/health", {}, { same: true });
    } finally {
      draw();
    }
  });
}
