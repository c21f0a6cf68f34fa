// What took the time: tasks by function.

import { E } from "./stream.js";
import { byId, count, duration, element, put } from "./words.js";

/** Functions that are shown: those that took most. */
const FUNCTIONS = 20;

/** What a task is counted as: all code that is executed is one. */
export const functionOf = (entry) => (entry[E.name].startsWith("execute: ") ? "execute" : entry[E.name]);

/** Groups of ended tasks by a word of theirs, with the largest sum of time first; durations in seconds, in order. */
export function byFunction(entries, word = functionOf) {
  const groups = new Map();
  for (const entry of entries) {
    const name = word(entry);
    let group = groups.get(name);
    if (!group) groups.set(name, (group = { name, times: [], failed: 0, sum: 0 }));
    const took = (entry[E.ended] - entry[E.started]) / 1e6;
    group.times.push(took);
    group.sum += took;
    group.failed += entry[E.status] !== "ok";
  }
  for (const group of groups.values()) group.times.sort((a, b) => a - b);
  return [...groups.values()].sort((a, b) => b.sum - a.sum);
}

export const percentile = (values, part) => values[Math.min(values.length - 1, Math.round((values.length - 1) * part))];

/** A row for each group. */
export function showFunctions(body, groups) {
  while (body.rows.length > groups.length) body.lastElementChild.remove();
  for (const [at, { name, times, failed, sum }] of groups.entries()) {
    const row = body.rows[at] ?? body.appendChild(element("tr", {}, element("th", { scope: "row" }),
      ...Array.from({ length: 6 }, () => element("td", { className: "number" }))));
    const texts = [name, count(times.length), count(failed), duration(sum), duration(percentile(times, 0.5)), duration(percentile(times, 0.95)), duration(times.at(-1))];
    for (const [cell, text] of texts.entries()) put(row.cells[cell], text);
    row.cells[0].title = name;
    row.cells[2].className = failed ? "number failed" : "number";
  }
}

export class FunctionTable {
  constructor(page) {
    this.page = page;
    this.shown = 0;
  }

  show() {
    const { stream } = this.page;
    const now = performance.now();
    // All that is remembered is looked through: not for every task that ends.
    if (byId("overview").hidden || this.total === stream.total || now < this.shown + 1000) return;
    [this.total, this.shown] = [stream.total, now];
    showFunctions(byId("functions").tBodies[0], byFunction(stream.entries).slice(0, FUNCTIONS));
  }
}
