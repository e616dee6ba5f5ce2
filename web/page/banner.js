// The line under the header: uploads that wait for an answer, images that were given up, a server that is away or in
// trouble, a session that has ended.
//
// Reads `/api/health` only. Invariant: while something is unanswered, given up or unreachable, it is said on every page.

import { api, connection, el, format, icon, replaceChildren } from "./core.js";
import { session } from "./session.js";
import { sessionLine } from "./sign_in.js";

const EVERY_MS = 3_000;

/** Waiting longer than this is said as a warning, seconds. */
const LONG_SECONDS = 120;

/** Failing images that the server names at most. */
const NAMED_FAILURES = 50;

/** The last health that came, for views that show a part of it. */
export const health = { latest: null };

function sentences({ stages, unavailable }, href) {
  const said = [];
  stages.forEach(({ stage, queue: known, failing }, index) => {
    // What could not be read just now is named below.
    const queue = known ?? {};
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
          `${failing.length >= NAMED_FAILURES ? "At least " : ""}${format.plural(failing.length, "image")} failed at the last try and ${failing.length === 1 ? "has" : "have"} no answer yet${where}. `,
          el("a", { href: href("/health", { stage }) }, "See the reasons"),
        ],
      });
    }
  });
  for (const detail of unavailable ?? []) said.push({ urgency: 1, parts: [`Not known just now: ${detail}`] });
  return said;
}

/** What could not be refreshed though the server is there; what is shown may be old. */
function troubles() {
  const details = new Set(connection.troubles.values());
  return [...details].map((detail) => ({ urgency: 1, parts: [`What you see could not be refreshed and is asked for again by itself: ${detail}`] }));
}

/** Keeps `banner` true for as long as the page is open. */
export function watchHealth(banner, { every, href }) {
  let lastWords = "";
  function draw() {
    const ended = sessionLine();
    const said = ended ? [ended] : connection.lost
      ? [{
        urgency: 2,
        parts: [`The server does not answer since ${format.time(connection.answeredAt)}. What you see is from before; this page goes on by itself when it answers again.`],
      }]
      : [...troubles(), ...(health.latest ? sentences(health.latest, href) : [])];
    said.sort((a, b) => b.urgency - a.urgency);
    const urgency = Math.max(0, ...said.map((one) => one.urgency));
    banner.hidden = said.length === 0;
    banner.className = `banner urgency-${urgency}`;
    const words = said.map((one) => one.parts.map((part) => part.textContent ?? part).join("")).join("\n");
    // Drawn only where the words changed, so that nothing is spoken twice.
    if (words === lastWords) return;
    lastWords = words;
    const focused = banner.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    // Ages that count up would be spoken every few seconds.
    banner.setAttribute("aria-live", urgency > 0 ? "polite" : "off");
    replaceChildren(banner, said.map((one) => el("p", { class: `urgency-${one.urgency}` }, icon(one.urgency > 0 ? "warning" : "retry"), el("span", {}, one.parts))));
    if (focused) [...banner.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
  }
  // What sticks to the top of a view sticks below the banner.
  new ResizeObserver(() => document.documentElement.style.setProperty("--banner", `${banner.hidden ? 0 : banner.offsetHeight}px`)).observe(banner);
  connection.addEventListener("change", draw);
  session.addEventListener("change", () => {
    draw();
    // The first answer wakes all that waits for one.
    if (session.problem === null) api.get("/api/health", {}, { same: true }).catch(() => {});
  });
  connection.addEventListener("trouble", draw);
  every(EVERY_MS, async () => {
    try {
      health.latest = await api.get("/api/health", {}, { same: true });
    } finally {
      draw();
    }
  });
}
