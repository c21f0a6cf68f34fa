// The task stream: a row for each engine, a bar for each task.

import { sized } from "./charts.js";
import { count, duration, element, put, shortId } from "./words.js";

/** Where things stand in an entry, as the controller sends it. */
export const E = { seq: 0, engine: 1, started: 2, ended: 3, status: 4, name: 5, label: 6, id: 7, client: 8, submitted: 9, queue: 10, error: 11 };

/** Tasks that are kept; older ones go. */
export const KEPT = 12000;

/** Each has a contrast of 3 to the ground, light and dark; neighbours differ in lightness as well as in hue. */
const COLOURS = ["#3475c4", "#3a9e57", "#aa5f04", "#c35f93", "#01858a", "#cb6540", "#825eb9", "#859004", "#077fa8", "#b066b5", "#8f7000"];
const OUTCOMES = { ok: "#268a4d", failed: "#d63a36", aborted: "#7c8796", running: "#3475c4" };

/** Milliseconds between two descriptions of the whole stream: a screen reader may read each. */
const DESCRIBE = 5000;
const [GUTTER, AXIS, ROW, THINNEST] = [54, 22, 20, 3];
/** What is shown of the present, in microseconds, unless another span is chosen. */
const [SHORTEST, LONGEST] = [10e6, 60e6];

export class TaskStream {
  /**
   * `container` scrolls; `tip` shows a task's details; `open(entry)` is called for one that is chosen. `now()` is the
   * present in the microseconds of entries; `running()` are entries of tasks that have not ended.
   */
  constructor(container, { tip, legend, open, now, running = () => [] }) {
    Object.assign(this, { container, tip, legend, open, now, running });
    this.entries = [];
    this.engines = [];
    this.by = "name";
    this.colours = new Map();
    this.span = LONGEST;
    this.isFree = true; // the span follows what there is, until it is chosen
    this.end = null; // live while null
    this.chosen = null;
    this.total = 0;
    this.sizer = element("div");
    this.canvas = element("canvas", { tabIndex: 0 });
    // It has keys of its own.
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "task stream");
    this.canvas.setAttribute("aria-describedby", "stream-keys");
    container.append(this.canvas, this.sizer);
    container.addEventListener("scroll", () => this.redraw());
    this.canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    this.canvas.addEventListener("pointermove", (event) => this.onMove(event));
    this.canvas.addEventListener("pointerleave", () => { if (!this.drag) this.hideTip(); });
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.canvas.addEventListener("blur", () => this.choose(null));
    new ResizeObserver(() => this.redraw()).observe(container);
  }

  clear() {
    this.entries = [];
    this.choose(null);
  }

  /** Takes entries that it does not have yet, in order. `total`: how many there ever were. */
  add(entries, total) {
    const last = this.entries.at(-1)?.[E.seq] ?? -1;
    for (const entry of entries) if (entry[E.seq] > last) this.entries.push(entry);
    if (this.entries.length > KEPT) this.entries.splice(0, this.entries.length - KEPT);
    this.total = total;
    this.isStale = true;
  }

  setEngines(ids) {
    // Engines that are gone keep their rows as long as tasks of theirs are shown.
    const all = new Set(ids);
    for (const entry of this.entries) if (entry[E.engine] != null) all.add(entry[E.engine]);
    const sorted = [...all].sort((a, b) => a - b);
    if (sorted.length !== this.engines.length || sorted.some((id, at) => id !== this.engines[at])) {
      this.engines = sorted;
      this.rows = new Map(sorted.map((id, row) => [id, row]));
    }
  }

  colourBy(what) {
    this.by = what;
    this.redraw();
  }

  zoom(factor, at = 1) {
    this.isFree = false;
    const end = this.end ?? this.now();
    const fixed = end - this.span * (1 - at);
    this.span = Math.min(Math.max(this.span * factor, 1e3), 24 * 3600e6);
    if (this.end != null || at < 1) this.moveTo(fixed + this.span * (1 - at));
    this.redraw();
  }

  /** Shows what was up to this moment; none for now, as it goes on. */
  moveTo(end) {
    this.isFree = false;
    this.end = end == null || end >= this.now() ? null : end;
    this.onLive?.(this.end == null);
    this.redraw();
  }

  /** Shows all that there is. */
  fit() {
    if (!this.entries.length) return;
    this.isFree = false;
    const from = this.entries.reduce((least, entry) => Math.min(least, entry[E.started]), Infinity);
    const to = this.entries.reduce((most, entry) => Math.max(most, entry[E.ended]), -Infinity);
    this.span = Math.max((to - from) * 1.04, 1e3);
    this.end = to + this.span * 0.02;
    this.redraw();
  }

  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.draw();
    });
  }

  get rowHeight() {
    const room = Math.max(window.innerHeight * 0.5, 200) - AXIS;
    return Math.min(ROW, Math.max(THINNEST, Math.floor(room / Math.max(this.engines.length, 1))));
  }

  draw() {
    const width = this.container.clientWidth;
    if (!width) return;
    const row = this.rowHeight;
    const full = AXIS + Math.max(this.engines.length, 1) * row + 6;
    const height = Math.min(full, Math.round(window.innerHeight * 0.6));
    this.sizer.style.height = `${full - height}px`;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const pen = sized(this.canvas, width, height);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name);
    const scrolled = this.container.scrollTop;
    const end = this.end ?? this.now();
    if (this.isFree && this.entries.length) {
      this.span = Math.min(Math.max((end - this.entries[0][E.started]) * 1.05, SHORTEST), LONGEST);
    }
    this.view = { from: end - this.span, scale: (width - GUTTER) / this.span, row, scrolled, width, height };
    this.drawn = [];
    pen.clearRect(0, 0, width, height);
    pen.save();
    pen.beginPath();
    pen.rect(0, AXIS, width, height - AXIS);
    pen.clip();
    this.drawRows(pen, colour);
    this.drawBars(pen, colour);
    pen.restore();
    this.drawAxis(pen, colour, end);
    this.describe();
    this.showLegend();
  }

  top(engine) {
    return AXIS + this.rows.get(engine) * this.view.row - this.view.scrolled;
  }

  drawRows(pen, colour) {
    const { row, width, height, scrolled } = this.view;
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "right";
    const every = Math.ceil(14 / row);
    const first = Math.max(0, Math.floor(scrolled / row));
    const last = Math.min(this.engines.length, Math.ceil((scrolled + height) / row));
    for (let at = first; at < last; at += 1) {
      const top = AXIS + at * row - scrolled;
      if (at % 2) {
        pen.fillStyle = colour("--stripe");
        pen.fillRect(GUTTER, top, width, row);
      }
      if (at % every === 0) {
        pen.fillStyle = colour("--faint");
        pen.fillText(this.engines[at], GUTTER - 8, top + Math.max(row / 2, 5) + 4);
      }
    }
    pen.textAlign = "left";
  }

  drawBars(pen, colour) {
    const { from, scale, row, width, height } = this.view;
    const gap = row > 8 ? 2 : row > 4 ? 1 : 0;
    // What did not succeed lies on top.
    const last = this.entries.filter((entry) => entry[E.status] !== "ok");
    const running = this.running();
    const now = this.now();
    for (const entry of running) entry[E.ended] = now;
    for (const entry of [...running, ...this.entries.filter((entry) => entry[E.status] === "ok"), ...last]) {
      if (!this.rows?.has(entry[E.engine])) continue;
      const left = GUTTER + (entry[E.started] - from) * scale;
      const right = GUTTER + (entry[E.ended] - from) * scale;
      if (right < GUTTER || left > width) continue;
      const top = this.top(entry[E.engine]);
      if (top + row < AXIS || top > height) continue;
      const x = Math.max(left, GUTTER);
      // Bars that touch are told apart.
      const space = right - x > 5 ? 1 : 0;
      const box = [x, top + gap, Math.max(right - x - space, 1), row - 2 * gap];
      const fill = this.colourOf(entry);
      const isRunning = entry[E.status] === "running";
      pen.fillStyle = fill;
      pen.globalAlpha = isRunning ? 0.35 : 1;
      pen.fillRect(...box);
      pen.globalAlpha = 1;
      if (isRunning) {
        pen.strokeStyle = fill;
        pen.lineWidth = 1;
        pen.strokeRect(box[0] + 0.5, box[1] + 0.5, Math.max(box[2] - 1, 1), Math.max(box[3] - 1, 1));
      } else if (entry[E.status] !== "ok") this.drawFailure(pen, box, entry[E.status]);
      if (box[2] > 34 && row >= 14) {
        pen.save();
        pen.beginPath();
        pen.rect(...box);
        pen.clip();
        pen.fillStyle = isRunning ? colour("--text") : textOn(fill);
        pen.font = "11px system-ui, sans-serif";
        pen.fillText(entry[E.label] ?? entry[E.name], x + 5, top + row / 2 + 4);
        pen.restore();
      }
      if (this.chosen && entry[E.id] === this.chosen[E.id]) {
        pen.strokeStyle = colour("--text");
        pen.lineWidth = 2;
        pen.strokeRect(box[0] - 1, box[1] - 1, box[2] + 2, box[3] + 2);
      }
      this.drawn.push([entry, ...box]);
    }
  }

  /** What failed has a red frame and a cross through it, in whatever colour. */
  drawFailure(pen, [x, y, width, height], status) {
    const colour = OUTCOMES[status] ?? OUTCOMES.failed;
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.strokeRect(x + 1, y + 1, Math.max(width - 2, 1), Math.max(height - 2, 1));
    if (width > 8 && height > 8) {
      pen.beginPath();
      for (let at = x; at < x + width; at += 8) {
        pen.moveTo(at, y + height);
        pen.lineTo(Math.min(at + height, x + width), y);
      }
      pen.stroke();
    } else {
      pen.fillStyle = colour;
      pen.fillRect(x, y, Math.max(width, 2), height);
    }
  }

  drawAxis(pen, colour, end) {
    const { from, scale, width, height } = this.view;
    pen.fillStyle = colour("--card");
    pen.fillRect(0, 0, width, AXIS);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour("--faint");
    pen.fillText("engine", 6, 15);
    pen.strokeStyle = colour("--line");
    pen.lineWidth = 1;
    const step = tick(this.span / Math.max((width - GUTTER) / 110, 1));
    for (let back = 0; back <= this.span; back += step) {
      const x = Math.round(GUTTER + (end - back - from) * scale) + 0.5;
      if (x < GUTTER + 30) break;
      pen.beginPath();
      pen.moveTo(x, AXIS - 4);
      pen.lineTo(x, height);
      pen.globalAlpha = 0.6;
      pen.stroke();
      pen.globalAlpha = 1;
      pen.textAlign = "right";
      pen.fillText(back ? `−${duration(back / 1e6)}` : this.end == null ? "now" : "0", x - 4, 15);
      pen.textAlign = "left";
    }
  }

  describe() {
    const now = performance.now();
    if (document.activeElement === this.canvas && now < this.described + DESCRIBE) return;
    this.described = now;
    const failed = this.drawn.filter(([entry]) => !["ok", "running"].includes(entry[E.status])).length;
    this.canvas.setAttribute("aria-label",
      `Task stream: ${count(this.drawn.length)} tasks on ${count(this.engines.length)} engines within ` +
      `${duration(this.span / 1e6)}${failed ? `, of which ${count(failed)} did not succeed` : ""}. ` +
      "Full stop and comma go from task to task.");
  }

  colourOf(entry) {
    if (this.by === "status") return OUTCOMES[entry[E.status]];
    return this.colourFor(this.wordOf(entry));
  }

  /** By which it is coloured. Executions are all alike. */
  wordOf(entry) {
    const word = String(entry[E[this.by]] ?? "");
    return this.by === "name" && word.startsWith("execute: ") ? "execute" : word;
  }

  /** Every word keeps its colour as long as the page is open. */
  colourFor(word) {
    let colour = this.colours.get(word);
    if (!colour) {
      if (this.colours.size > 500) this.colours.clear();
      colour = word ? COLOURS[this.colours.size % COLOURS.length] : OUTCOMES.aborted;
      this.colours.set(word, colour);
    }
    return colour;
  }

  showLegend() {
    const words = new Map();
    for (const [entry] of this.drawn) {
      const word = this.wordOf(entry);
      words.set(word, (words.get(word) ?? 0) + 1);
    }
    const most = [...words].sort((a, b) => b[1] - a[1]).slice(0, 12);
    const text = JSON.stringify(most);
    if (text === this.legendText) return;
    this.legendText = text;
    this.legend.replaceChildren(...most.map(([word, number]) => {
      const mark = element("b");
      mark.style.background = this.by === "status" ? OUTCOMES[word] : this.colourFor(word);
      const shown = this.by === "client" ? shortId(word) : word || "no label";
      return element("li", {}, mark, `${shown} (${count(number)})`);
    }));
  }

  // ---- hands

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    return this.drawn?.findLast(([, left, top, width, height]) =>
      x >= left - 2 && x <= left + width + 2 && y >= top && y <= top + height)?.[0];
  }

  onWheel(event) {
    // Without Ctrl the page scrolls, as everywhere.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    const at = (event.clientX - box.left - GUTTER) / (box.width - GUTTER);
    this.zoom(event.deltaY > 0 ? 1.25 : 0.8, Math.min(Math.max(at, 0), 1));
  }

  onDown(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { x: event.clientX, end: this.end ?? this.now(), moved: false };
    const release = () => {
      if (!this.drag.moved) {
        const entry = this.at(event);
        if (entry) this.open(entry);
      }
      this.drag = null;
    };
    this.canvas.addEventListener("pointerup", release, { once: true });
  }

  onMove(event) {
    if (this.drag) {
      const moved = event.clientX - this.drag.x;
      if (Math.abs(moved) > 3) this.drag.moved = true;
      if (this.drag.moved) this.moveTo(this.drag.end - moved / this.view.scale);
      return;
    }
    const entry = this.at(event);
    if (entry) this.showTip(entry, event.clientX, event.clientY);
    else this.hideTip();
  }

  onKey(event) {
    const end = this.end ?? this.now();
    const actions = {
      ArrowLeft: () => this.moveTo(end - this.span / 5),
      ArrowRight: () => this.moveTo(end + this.span / 5),
      "+": () => this.zoom(0.7), "=": () => this.zoom(0.7),
      "-": () => this.zoom(1.4),
      0: () => this.moveTo(null), Home: () => this.fit(),
      ".": () => this.step(1), ",": () => this.step(-1),
      Enter: () => this.chosen && this.open(this.chosen),
      Escape: () => this.choose(null),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[event.key]();
  }

  /** To the task that began next, or before. */
  step(by) {
    const order = this.drawn.map(([entry]) => entry).sort((a, b) => a[E.started] - b[E.started]);
    if (!order.length) return;
    const at = order.findIndex((entry) => entry[E.id] === this.chosen?.[E.id]);
    const next = at < 0 ? (by > 0 ? 0 : order.length - 1) : Math.min(Math.max(at + by, 0), order.length - 1);
    if (this.end == null) this.moveTo(this.now() - 1);
    this.choose(order[next]);
  }

  choose(entry) {
    this.chosen = entry;
    this.redraw();
    if (!entry) return this.hideTip();
    const [, left, top, , height] = this.drawn.find(([drawn]) => drawn[E.id] === entry[E.id]) ?? [entry, GUTTER, AXIS, 0, 0];
    const box = this.canvas.getBoundingClientRect();
    this.showTip(entry, box.left + left, box.top + top + height);
  }

  showTip(entry, x, y) {
    put(this.tip, describeEntry(entry));
    this.tip.hidden = false;
    const { width, height } = this.tip.getBoundingClientRect();
    this.tip.style.left = `${Math.max(8, Math.min(x + 14, window.innerWidth - width - 8))}px`;
    this.tip.style.top = `${y + 18 + height > window.innerHeight ? y - height - 10 : y + 18}px`;
  }

  hideTip() {
    this.tip.hidden = true;
  }
}

/** A task in some lines. */
export function describeEntry(entry) {
  const waited = entry[E.submitted] == null ? null : (entry[E.started] - entry[E.submitted]) / 1e6;
  const where = entry[E.engine] == null ? "on no engine" : `on engine ${entry[E.engine]}`;
  const took = duration((entry[E.ended] - entry[E.started]) / 1e6);
  const isRunning = entry[E.status] === "running";
  const lines = [
    `${entry[E.name]}${entry[E.label] ? ` · ${entry[E.label]}` : ""}`,
    `${entry[E.status]} ${where}${entry[E.queue] ? `, ${entry[E.queue]} queue` : ""}`,
    `${isRunning ? `for ${took}` : `took ${took}`}${waited == null ? "" : `, waited ${duration(Math.max(waited, 0))}`}`,
    shortId(entry[E.id]),
  ];
  if (entry[E.error]) lines.splice(1, 0, entry[E.error]);
  return lines.join("\n");
}

/** An entry of what an engine works on; its end is the present. */
export function runningEntry({ id, current }) {
  return [null, id, current.since, current.since, "running", current.name, current.label, current.msg_id, null, null, null, null];
}

/** Black or white, whichever can be read on a colour. */
const textOn = (() => {
  const known = new Map();
  return (colour) => {
    if (!known.has(colour)) {
      const [red, green, blue] = [1, 3, 5].map((at) => {
        const part = parseInt(colour.slice(at, at + 2), 16) / 255;
        return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
      });
      known.set(colour, 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff");
    }
    return known.get(colour);
  };
})();

/** 1, 2 or 5 with zeros, not less than the value, in microseconds; whole minutes beyond. */
function tick(value) {
  const steps = [];
  for (let power = 1; power <= 1e7; power *= 10) steps.push(power, 2 * power, 5 * power);
  steps.push(60e6, 120e6, 300e6, 600e6, 1800e6, 3600e6, 7200e6);
  return steps.find((step) => step >= value) ?? 14400e6;
}
