// The report of a run: the same pictures as the status page, and figures that are counted here.

import { Charts } from "./charts.js";
import { byFunction, functionOf, showFunctions } from "./functions.js";
import { E, TaskStream, describeEntry } from "./stream.js";
import { byId, clock, count, duration, element, put, shortId } from "./words.js";

const state = JSON.parse(byId("data").textContent);
const entries = state.stream;
/** Functions that are shown, those that took most: each task may have a label of its own. */
const FUNCTIONS_OF_REPORT = 200;
const took = (entry) => (entry[E.ended] - entry[E.started]) / 1e6;

function table(id, names, rows) {
  const cells = (row, name) => row.map((value, at) => {
    const cell = element(name === "td" && !at ? "th" : name, { className: at && typeof value === "number" ? "number" : "" }, typeof value === "number" ? count(value) : value ?? "–");
    if (cell.localName === "th") cell.scope = name === "th" ? "col" : "row";
    return cell;
  });
  const head = cells(names, "th");
  for (const [at, cell] of head.entries()) if (at && typeof rows[0]?.[at] === "number") cell.className = "number";
  byId(id).replaceChildren(element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row, "td")))));
}

/** What each engine ended, in the order of their ids; at last what none did. */
function byEngine() {
  const found = new Map();
  for (const entry of entries) {
    const id = entry[E.engine] ?? Infinity;
    if (!found.has(id)) found.set(id, []);
    found.get(id).push(entry);
  }
  return [...found].sort(([a], [b]) => a - b);
}

const failures = (group) => group.filter((entry) => entry[E.status] !== "ok").length;
const [first, last] = entries.reduce(([least, most], entry) =>
  [Math.min(least, entry[E.submitted] ?? entry[E.started]), Math.max(most, entry[E.ended])], [Infinity, -Infinity]);
const span = entries.length ? (last - first) / 1e6 : 0;
const sum = (group) => group.reduce((total, entry) => total + took(entry), 0);
const work = sum(entries);

const { profile, cluster_id: id, version } = state.about;
put(byId("cluster"), id ? `${profile} · ${id}` : profile);
const day = (micros) => new Date(state.started + micros / 1000).toLocaleDateString("en-CA");
put(byId("when"), entries.length ? `${day(first)}, ${clock(state.started + first / 1000)} to ${clock(state.started + last / 1000)} · ipcluster ${version}` : `ipcluster ${version}`);

const engines = new Set(entries.map((entry) => entry[E.engine]).filter((engine) => engine != null));
const more = state.ended > entries.length ? `the newest of ${count(state.ended)}` : "that ended";
const tile = (name, value, sub, bad) => element("div", { className: bad ? "bad some" : "" },
  element("dt", {}, name), element("dd", {}, value), element("dd", { className: "sub" }, sub));
byId("tiles").append(
  tile("Tasks", count(entries.length), more),
  tile("Did not succeed", count(failures(entries)), entries.length ? `${((100 * failures(entries)) / entries.length).toFixed(1)}%` : "", failures(entries) > 0),
  tile("Time", duration(span), "from the first submission to the last end"),
  tile("Work", duration(work), "of all engines together"),
  tile("Speed", span ? (work / span).toFixed(1) : "–", "engines' worth of work at a time"));

if (state.samples.length > 1) {
  const [oldest, newest] = [state.samples[0][0], state.samples.at(-1)[0]];
  new Charts(byId("charts")).draw(state.samples, (newest - oldest) / 1e6);
}

const stream = new TaskStream(byId("stream"), {
  tip: byId("tip"), legend: byId("legend"), now: () => Infinity,
  open: (entry) => {
    put(byId("details-title"), entry[E.label] ?? entry[E.name]);
    put(byId("details-body"), describeEntry(entry).replace(shortId(entry[E.id]), entry[E.id]));
    byId("details").showModal();
  },
});
stream.add(entries, state.ended);
stream.setEngines(engines);
stream.end = last;
stream.fit();
byId("colour").addEventListener("change", (event) => stream.colourBy(event.target.value));
byId("zoom-in").addEventListener("click", () => stream.zoom(0.6, 0.5));
byId("zoom-out").addEventListener("click", () => stream.zoom(1.6, 0.5));
byId("fit").addEventListener("click", () => stream.fit());
window.addEventListener("resize", () => stream.redraw());

const functions = byFunction(entries, (entry) => entry[E.label] ?? functionOf(entry));
showFunctions(byId("functions").tBodies[0], functions.slice(0, FUNCTIONS_OF_REPORT));
if (functions.length > FUNCTIONS_OF_REPORT) put(byId("functions-title"), `By function (the first ${FUNCTIONS_OF_REPORT} of ${count(functions.length)})`);
const hosts = new Map((state.engines ?? []).map((engine) => [engine.id, engine.host]));
table("engines", ["Engine", "Tasks", "Failed", "Worked", "Busy", "Host"], byEngine().map(([id, group]) =>
  [id === Infinity ? "none" : String(id), group.length, failures(group), duration(sum(group)), span ? `${((100 * sum(group)) / span).toFixed(0)}%` : "–", hosts.get(id)]));
const bad = entries.filter((entry) => entry[E.status] !== "ok").slice(-200).reverse();
byId("failures-title").hidden = !bad.length;
byId("failures").parentElement.hidden = !bad.length;
table("failures", ["When", "Function", "Engine", "Error", "Id"], bad.map((entry) => [
  clock(state.started + entry[E.ended] / 1000), entry[E.label] ?? entry[E.name], String(entry[E.engine] ?? "–"), entry[E.error] ?? entry[E.status], entry[E.id]]));
window.ipcluster = { stream };
