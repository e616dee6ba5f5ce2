// Pan and zoom of one picture without a library: wheel, drag, pinch, double click and keys.
//
// Never loads more than the one picture it was given. Invariant: part of the picture is always in sight.

import { el } from "./core.js";

/** Zoom of one notch of the wheel. */
const NOTCH = 1.2;

/** Pixels that an arrow key moves. */
const STEP = 60;

export class SimpleZoom {
  /** Fills `host`; `onScale` hears the screen pixels for one pixel of the picture. */
  constructor(host, onScale, { sharpFrom, maxScale }) {
    this.host = host;
    this.onScale = onScale;
    this.sharpFrom = sharpFrom;
    this.maxScale = maxScale;
    this.image = null;
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.isFit = true;
    this.turn = 0;
    this.pointers = new Map();
    host.classList.add("simple-zoom");
    host.tabIndex = 0;
    host.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(event.deltaY < 0 ? NOTCH : 1 / NOTCH, this.#place(event));
    }, { passive: false });
    host.addEventListener("dblclick", (event) => this.zoomBy(event.shiftKey ? 0.5 : 2, this.#place(event)));
    host.addEventListener("pointerdown", (event) => {
      host.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.#place(event));
    });
    host.addEventListener("pointermove", (event) => this.#drag(event));
    for (const name of ["pointerup", "pointercancel"]) host.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    host.addEventListener("keydown", (event) => this.#key(event));
    this.observer = new ResizeObserver(() => (this.isFit ? this.fit() : this.#draw()));
    this.observer.observe(host);
  }

  /** Shows `source.picture`, a decoded image, at once, or else what is at `source.url`. */
  async show(source) {
    const turn = ++this.turn;
    const image = source.picture ?? el("img", { alt: "", draggable: "false", src: source.url });
    if (!source.picture) {
      try {
        await image.decode();
      } catch {
        if (turn === this.turn) throw new Error("the browser could not load or decode it");
      }
    }
    if (turn !== this.turn) return;
    image.classList.add("simple-zoom-image");
    this.image = image;
    this.host.replaceChildren(image);
    this.fit();
  }

  /** Multiplies the scale; the point `at` of the host stays where it is, by default its middle. */
  zoomBy(factor, at = { x: this.host.clientWidth / 2, y: this.host.clientHeight / 2 }) {
    if (!this.image) return;
    const scale = Math.min(this.maxScale, Math.max(this.#fitScale() * 0.5, this.scale * factor));
    this.x = at.x - ((at.x - this.x) * scale) / this.scale;
    this.y = at.y - ((at.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.isFit = false;
    this.#draw();
  }

  fit() {
    if (!this.image) return;
    this.scale = this.#fitScale();
    this.x = (this.host.clientWidth - this.image.naturalWidth * this.scale) / 2;
    this.y = (this.host.clientHeight - this.image.naturalHeight * this.scale) / 2;
    this.isFit = true;
    this.#draw();
  }

  actualSize() { this.zoomBy(1 / devicePixelRatio / this.scale); }

  destroy() {
    this.turn += 1;
    this.observer.disconnect();
    this.host.replaceChildren();
  }

  #fitScale() {
    const { naturalWidth, naturalHeight } = this.image;
    if (!naturalWidth || !naturalHeight || !this.host.clientWidth) return 1;
    return Math.min(this.host.clientWidth / naturalWidth, this.host.clientHeight / naturalHeight, this.maxScale);
  }

  #place(event) {
    const box = this.host.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  #drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before || !this.image) return;
    const now = this.#place(event);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, now);
    if (other) {
      const distance = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
      this.zoomBy(distance(now) / distance(before), other);
    } else {
      this.#pan(now.x - before.x, now.y - before.y);
    }
  }

  #pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.isFit = false;
    this.#draw();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    if (moves[event.key]) this.#pan(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoomBy(NOTCH);
    else if (event.key === "-") this.zoomBy(1 / NOTCH);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #draw() {
    if (!this.image) return;
    const width = this.image.naturalWidth * this.scale;
    const height = this.image.naturalHeight * this.scale;
    const keep = (value, size, space) => Math.min(space - Math.min(40, size / 2), Math.max(Math.min(40, size / 2) - size, value));
    this.x = keep(this.x, width, this.host.clientWidth);
    this.y = keep(this.y, height, this.host.clientHeight);
    Object.assign(this.image.style, {
      width: `${width}px`,
      height: `${height}px`,
      transform: `translate(${this.x}px, ${this.y}px)`,
      imageRendering: this.scale >= this.sharpFrom ? "pixelated" : "auto",
    });
    this.onScale(this.scale);
  }
}
