// Builds DOM: elements, icons, and the boxes for empty, loading and failed.
//
// Never parses HTML. Invariant: text from outside becomes a text node or an attribute's value, so that a file name with
// markup in it is shown as it is written.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `attributes`: `class`, `data-…`, `aria-…` and properties of HTML as attributes; `onclick` and the like as
 * functions; `style` as an object (set by script, which the content security policy allows); `true` sets an empty
 * attribute, `null`, `undefined` and `false` leave it out. `children`: nodes, texts, numbers, lists of them; `null` and
 * `false` are left out.
 */
export function el(tag, attributes, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) {
      if (typeof value !== "function") throw new TypeError(`${name} must be a function`);
      element.addEventListener(name.slice(2), value);
    } else if (name === "style") {
      Object.assign(element.style, value);
    } else if (name === "value" && "value" in element) {
      element.value = value;
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

/** Empties `element` and fills it with `children`, as `el` takes them. */
export function replaceChildren(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

// On a grid of 16; strokes take the colour of the text.
const ICONS = {
  positive: ["M8 2.2 14.2 13.4H1.8Z", "fill"],
  review: ["M4.6 5.4a3.4 3.4 0 1 1 4.9 3c-1 .6-1.5 1.1-1.5 2.1M8 13.4v.3"],
  outlier: ["M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11M4.2 11.8 11.8 4.2"],
  negative: ["M8 2.8a5.2 5.2 0 1 0 0 10.4a5.2 5.2 0 1 0 0-10.4"],
  rejected: ["M3.5 3.5l9 9M12.5 3.5l-9 9"],
  neutral: ["M8 5.5a2.5 2.5 0 1 0 0 5a2.5 2.5 0 1 0 0-5", "fill"],
  withdrawn: ["M2.5 8h11"],
  warning: ["M8 2 14.5 13.5H1.5ZM8 6.3v3.4M8 11.4v.4"],
  upload: ["M8 10.5V2.5M4.8 5.5 8 2.3l3.2 3.2M2.5 10.5v3h11v-3"],
  folder: ["M1.8 12.8V3.2h4.4l1.5 1.9h6.5v7.7Z"],
  file: ["M3.5 1.8h5.7l3.3 3.3v9.1h-9ZM9.2 1.8v3.3h3.3"],
  search: ["M7 2.3a4.7 4.7 0 1 0 0 9.4a4.7 4.7 0 1 0 0-9.4M10.4 10.4 14 14"],
  check: ["M2.8 8.4l3.4 3.4 7-7.4"],
  close: ["M4 4l8 8M12 4l-8 8"],
  pause: ["M5.5 3v10M10.5 3v10"],
  play: ["M4.5 2.8 13 8l-8.5 5.2Z", "fill"],
  retry: ["M13 8a5 5 0 1 1-1.6-3.7M13.2 1.8v3h-3"],
  help: ["M8 1.8a6.2 6.2 0 1 0 0 12.4a6.2 6.2 0 1 0 0-12.4M6.2 6.4a1.8 1.8 0 1 1 2.6 1.7c-.6.3-.8.6-.8 1.2M8 11.3v.3"],
  sun: ["M8 5a3 3 0 1 0 0 6a3 3 0 1 0 0-6M8 1v1.6M8 13.4V15M1 8h1.6M13.4 8H15M3 3l1.2 1.2M11.8 11.8 13 13M13 3l-1.2 1.2M4.2 11.8 3 13"],
  moon: ["M13.2 9.6A5.6 5.6 0 0 1 6.4 2.8a5.6 5.6 0 1 0 6.8 6.8Z"],
  auto: ["M8 2a6 6 0 1 0 0 12a6 6 0 1 0 0-12M8 2v12M8 4.5h3.9M8 8h6M8 11.5h3.9"],
  back: ["M9.8 3 4.8 8l5 5"],
  next: ["M6.2 3l5 5-5 5"],
  down: ["M3 6.2l5 5 5-5"],
  copy: ["M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8Z"],
};

/** An icon that screen readers skip: a word always stands beside it, or the control has a label. */
export function icon(name) {
  const [path, style] = ICONS[name] ?? ICONS.neutral;
  const filled = style === "fill";
  return svg(
    "svg",
    { class: `icon icon-${name}`, viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true", focusable: "false" },
    svg("path", {
      d: path,
      fill: filled ? "currentColor" : "none",
      stroke: "currentColor",
      "stroke-width": filled ? 1 : 1.6,
      "stroke-linecap": "round",
      "stroke-linejoin": "round",
    }),
  );
}

/**
 * What stands in the place of content: `kind` is `empty`, `loading` or `error`; `action` is an element, or
 * `{label, run}`, or `{label, href}`; `text` is a text or nodes.
 *
 * @param {{kind: string, title: string, text?: any, action?: any}} box
 */
export function stateBox({ kind, title, text, action }) {
  let control = action ?? null;
  if (action && !(action instanceof Node)) {
    control = action.href
      ? el("a", { class: "button", href: action.href }, action.label)
      : el("button", { class: "button", type: "button", onclick: action.run }, action.label);
  }
  return el(
    "div",
    { class: `state state-${kind}`, role: kind === "error" ? "alert" : "status", "data-test": `state-${kind}` },
    kind === "error" ? icon("warning") : null,
    el("p", { class: "state-title" }, title),
    text ? el("div", { class: "state-text" }, text) : null,
    control ? el("div", { class: "state-action" }, control) : null,
  );
}

/** Grey bars in the place of `rows` lines that are on their way. */
export function skeleton(rows, label = "Loading") {
  const lines = Array.from({ length: rows }, () => el("div", { class: "skeleton-row" }));
  return el("div", { class: "skeleton", role: "status", "aria-label": label }, lines);
}

/** The element within `root` that has the focus, or `null`. */
export function focusedIn(root) {
  const active = document.activeElement;
  return active instanceof HTMLElement && root.contains(active) ? active : null;
}

/** A button that copies what `text()` gives, and says so. */
export function copyButton(text, label = "Copy") {
  const button = el("button", { class: "button small", type: "button", "data-test": "copy" }, icon("copy"), el("span", {}, label));
  button.addEventListener("click", async () => {
    const words = button.querySelector("span");
    try {
      await navigator.clipboard.writeText(text());
      words.textContent = "Copied";
    } catch {
      words.textContent = "Could not copy: select the text instead";
    }
    setTimeout(() => { words.textContent = label; }, 2000);
  });
  return button;
}
