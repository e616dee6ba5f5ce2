// Numbers, times and sizes as people read them.
//
// Pure but for the browser's language and clock. Invariant: what is absent is shown as a dash, never as 0.

const DASH = "–";
const counts = new Intl.NumberFormat();
const moments = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const relatives = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });

const isAbsent = (value) => value === null || value === undefined || Number.isNaN(value);

/** The file name of a key; some Windows programs put `\` between its folders. */
export const nameOf = (key) => key.replace(/^.*[/\\]/s, "");

/** The slide of a key: its folder part, in the one form that `src/object.rs` gives it. */
export const slideOf = (key) => key.slice(0, key.length - nameOf(key).length).replaceAll("\\", "/").replace(/\/$/, "").normalize("NFC");

export const format = {
  /** A whole number with separators. */
  count: (value) => (isAbsent(value) ? DASH : counts.format(value)),

  /** Percent (0 to 100) with as many digits as tell small parasitemias apart. */
  percent(value, digits) {
    if (isAbsent(value)) return DASH;
    const decimals = digits ?? (value === 0 || value >= 10 ? 1 : 2);
    return `${value.toFixed(decimals)} %`;
  },

  /** An interval of percents, `[low, high]`. */
  interval(bounds) {
    if (!bounds) return DASH;
    const [low, high] = bounds;
    const digits = high < 10 ? 2 : 1;
    return `${low.toFixed(digits)}–${high.toFixed(digits)} %`;
  },

  /** A probability (0 to 1) with three digits; never rounded up to 1. */
  probability(value) {
    if (isAbsent(value)) return DASH;
    return value < 1 && value > 0.9995 ? "> 0.999" : value.toFixed(3);
  },

  /** Date and time in the reader's zone. */
  time: (value) => (isAbsent(value) ? DASH : moments.format(new Date(value))),

  /** How long ago. */
  relative(value, now = Date.now()) {
    if (isAbsent(value)) return DASH;
    const seconds = Math.round((new Date(value).getTime() - now) / 1000);
    /** @type {[number, Intl.RelativeTimeFormatUnit, number][]} */
    const steps = [[60, "second", 1], [3600, "minute", 60], [86_400, "hour", 3600], [2_592_000, "day", 86_400], [31_536_000, "month", 2_592_000]];
    // A second or two are the clocks of two machines.
    if (Math.abs(seconds) < 3) return "just now";
    for (const [below, unit, size] of steps) {
      if (Math.abs(seconds) < below) return relatives.format(Math.round(seconds / size), unit);
    }
    return relatives.format(Math.round(seconds / 31_536_000), "year");
  },

  /** A span of seconds. */
  duration(seconds) {
    if (isAbsent(seconds)) return DASH;
    if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
    if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
    return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
  },

  /** Bytes in the units file managers use. */
  bytes(value) {
    if (isAbsent(value)) return DASH;
    if (value < 1000) return `${value} B`;
    const units = ["kB", "MB", "GB", "TB"];
    let amount = value;
    let unit = -1;
    while (amount >= 999.5 && unit < units.length - 1) {
      amount /= 1000;
      unit += 1;
    }
    return `${amount.toFixed(amount < 10 ? 1 : 0)} ${units[unit]}`;
  },

  /** `1 image`, `2 images`. */
  plural: (count, one, many = `${one}s`) => `${counts.format(count)} ${count === 1 ? one : many}`,
};
