// Engines, records of tasks, and the log.

import { E } from "./stream.js";
import { byId, clock, count, duration, element, milliseconds, put, shortId, size } from "./words.js";

/** Asks the controller. What it refuses is an error in its words. */
async function ask(path, options) {
  const answer = await fetch(path, options);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error ?? answer.statusText);
  return value;
}

/** Asks whoever sits there; whether the answer is yes. */
function confirmed(text, yes) {
  const dialog = byId("confirm");
  put(byId("confirm-text"), text);
  put(byId("confirm-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}

function showDetails(title, ...content) {
  put(byId("details-title"), title);
  byId("details-body").replaceChildren(...content);
  if (!byId("details").open) byId("details").showModal();
}

const fields = (pairs) => element("dl", { className: "fields" },
  ...pairs.filter(([, value]) => value != null && value !== "").flatMap(([name, value]) =>
    [element("dt", {}, name), element("dd", {}, value)]));

const section = (title, text) => (text ? [element("h3", {}, title), element("pre", { tabIndex: 0 }, text)] : []);

// ---- engines

export const isUp = (engine) => engine.phase === "up";

const stateOf = (engine) => (!isUp(engine) ? engine.phase : engine.tasks + engine.queue > 0 ? "busy" : "idle");

/** Since when it is at what it does, if that is of interest. */
const sinceOf = (engine) => (isUp(engine) ? engine.current?.since : engine.since);

const COLUMNS = [
  { name: "Id", value: (engine) => engine.id, isNumber: true },
  { name: "Host", value: (engine) => engine.host ?? "–" },
  { name: "Pid", value: (engine) => engine.pid ?? "–", isNumber: true },
  { name: "State", value: stateOf, className: (engine) => `state ${stateOf(engine)}` },
  { name: "Works on", value: (engine) => (engine.current ? engine.current.label ?? engine.current.name : engine.how ?? "") },
  { name: "For", value: (engine, page) => (sinceOf(engine) == null ? "" : duration(Math.max(page.now() - sinceOf(engine), 0) / 1e6)),
    order: (engine) => (sinceOf(engine) == null ? -Infinity : -sinceOf(engine)), isNumber: true },
  { name: "Tasks", value: (engine) => count(engine.tasks), order: (engine) => engine.tasks, isNumber: true },
  { name: "Queue", value: (engine) => count(engine.queue), order: (engine) => engine.queue, isNumber: true },
  { name: "Completed", value: (engine) => count(engine.completed), order: (engine) => engine.completed, isNumber: true },
  { name: "Failed", value: (engine) => count(engine.failed), order: (engine) => engine.failed, isNumber: true,
    className: (engine) => (engine.failed ? "number failed" : "number") },
  { name: "Memory", value: (engine) => size(engine.memory), order: (engine) => engine.memory ?? -1, isNumber: true },
  { name: "CPU", value: (engine) => (engine.cpu == null ? "–" : engine.cpu.toFixed(2)), order: (engine) => engine.cpu ?? -1, isNumber: true },
  { name: "Last output", value: (engine) => engine.output.at(-1) ?? "" },
];

export class EngineTable {
  constructor(page) {
    this.page = page;
    this.rows = new Map();
    this.changed = new Set();
    this.order = COLUMNS[0];
    this.isDown = false;
    this.shown = 0;
    const head = byId("engine-table").tHead.rows[0];
    for (const column of COLUMNS) {
      const button = element("button", { type: "button" }, column.name);
      const cell = element("th", { scope: "col", className: column.isNumber ? "number" : "" }, button);
      button.addEventListener("click", () => this.sortBy(column));
      head.append(cell);
      column.cell = cell;
    }
    head.append(element("th", { scope: "col" }, "Actions"));
    byId("engine-filter").addEventListener("input", () => {
      this.isStale = true;
      this.show();
      this.page.say(`${byId("engine-count").textContent} engines`);
    });
    this.mark();
  }

  get body() {
    return byId("engine-table").tBodies[0];
  }

  sortBy(column) {
    this.isDown = this.order === column ? !this.isDown : column !== COLUMNS[0] && column.isNumber;
    this.order = column;
    this.mark();
    this.isStale = true;
    this.show();
  }

  mark() {
    for (const column of COLUMNS) {
      if (column === this.order) column.cell.setAttribute("aria-sort", this.isDown ? "descending" : "ascending");
      else column.cell.removeAttribute("aria-sort");
    }
  }

  clear() {
    this.rows.clear();
    this.body.replaceChildren();
    this.isStale = true;
  }

  touch(engines, gone) {
    for (const engine of engines) {
      this.changed.add(engine.id);
      if (this.rows.get(engine.id)?.dataset.phase !== engine.phase) this.isStale = true;
    }
    for (const id of gone) {
      this.rows.get(id)?.remove();
      this.rows.delete(id);
      this.changed.delete(id);
      this.isStale = true;
    }
  }

  show() {
    if (byId("engines").hidden) return;
    const now = performance.now();
    // The order changes not too often to be read.
    const isLate = now - this.shown > 2000;
    if (this.isStale || (isLate && this.order !== COLUMNS[0])) {
      this.isStale = false;
      this.shown = now;
      this.arrange();
    }
    for (const [id, row] of this.rows) {
      const engine = this.page.engines.get(id);
      if (!engine || row.hidden) continue;
      if (this.changed.has(id)) this.fill(row, engine);
      else if (sinceOf(engine) != null) put(row.cells[5], COLUMNS[5].value(engine, this.page));
    }
    this.changed.clear();
  }

  arrange() {
    const words = byId("engine-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const key = this.order.order ?? this.order.value;
    const engines = [...this.page.engines.values()].sort((a, b) => {
      const [x, y] = [key(a, this.page), key(b, this.page)];
      return ((x > y) - (x < y)) * (this.isDown ? -1 : 1) || a.id - b.id;
    });
    let visible = 0;
    let before = null;
    for (const engine of engines) {
      let row = this.rows.get(engine.id);
      if (!row) {
        row = this.newRow(engine.id);
        this.rows.set(engine.id, row);
        this.fill(row, engine);
      }
      const text = COLUMNS.map((column) => column.value(engine, this.page)).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      visible += !row.hidden;
      this.changed.add(engine.id);
      // What stands right already is not moved: focus and selection stay.
      const after = before ? before.nextSibling : this.body.firstChild;
      if (after !== row) this.body.insertBefore(row, after);
      before = row;
    }
    const number = (phase) => engines.filter((engine) => engine.phase === phase).length;
    const others = ["starting", "restarting", "dead"].filter(number).map((phase) => `, ${count(number(phase))} ${phase}`);
    const all = `${count(number("up"))} registered${others.join("")}`;
    put(byId("engine-count"), words.length ? `${count(visible)} of ${count(engines.length)}` : all);
  }

  newRow(id) {
    const row = element("tr");
    for (const column of COLUMNS) {
      const isFirst = column === COLUMNS[0];
      row.append(element(isFirst ? "th" : "td", { className: column.isNumber ? "number" : "", ...(isFirst && { scope: "row" }) }));
    }
    const button = (text, action) => {
      const made = element("button", { type: "button" }, text);
      made.setAttribute("aria-label", `${text} engine ${id}`);
      made.addEventListener("click", () => action(made));
      return made;
    };
    row.append(element("td", { className: "actions" },
      button("Output", () => this.showOutput(id)),
      button("Interrupt", (made) => this.command(id, "interrupt", made)),
      button("Restart", (made) => this.command(id, "restart", made))));
    return row;
  }

  fill(row, engine) {
    for (const [at, column] of COLUMNS.entries()) {
      const cell = row.cells[at];
      const text = column.value(engine, this.page);
      put(cell, text);
      if (column.className) cell.className = column.className(engine);
      if (!column.isNumber) cell.title = text;
    }
    row.dataset.phase = engine.phase;
    row.className = engine.phase === "dead" ? "dead" : "";
    for (const command of [...row.lastElementChild.children].slice(1)) command.disabled = !isUp(engine);
  }

  showOutput(id) {
    const engine = this.page.engines.get(id);
    if (!engine) return;
    showDetails(`Engine ${id}`, fields([
      ["uuid", engine.uuid], ["host", engine.host], ["pid", engine.pid],
      [isUp(engine) ? "registered" : engine.phase, `${isUp(engine) ? "" : "since "}${this.page.clock(engine.since)}`], ["why", engine.how],
      ["works on", engine.current && `${engine.current.name} (${engine.current.msg_id})`],
    ]), ...(engine.output.length ? section("Last output", engine.output.join("\n")) : [element("p", { className: "empty" }, "It has written nothing yet.")]));
  }

  async command(id, action, button) {
    const text = { interrupt: `Interrupt what engine ${id} runs?`, restart: `Restart engine ${id}? What it runs fails, and its memory is lost.` };
    if (!(await confirmed(text[action], action === "restart" ? "Restart" : "Interrupt"))) return;
    try {
      await ask("api/engine", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id, action }),
      });
    } catch (error) {
      showDetails(`Engine ${id}`, element("p", { className: "failed" }, error.message));
    }
    button.focus();
  }
}

export function showDeparted(page, departed) {
  byId("departed-title").hidden = byId("departed-box").hidden = !departed.length;
  byId("departed").tBodies[0].replaceChildren(...departed.map((engine) => element("tr", {},
    element("th", { scope: "row" }, String(engine.id)), element("td", {}, page.clock(engine.at)), element("td", { title: engine.how }, engine.how),
    element("td", {}, engine.host ?? "–"), element("td", { className: "number" }, count(engine.completed)))));
}

// ---- tasks

export class TaskSearch {
  constructor(page) {
    this.page = page;
    this.form = byId("search");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
  }

  first() {
    if (!this.hasRun) this.run();
  }

  /** What the form says, as a query of the task database. */
  query() {
    const { id, label, client, engine, state, age } = Object.fromEntries(new FormData(this.form));
    const query = {};
    const pattern = (text) => (/[*?[]/.test(text) ? { $glob: text } : text);
    if (id.trim()) query.msg_id = pattern(id.trim());
    if (label.trim()) query.label = pattern(label.trim());
    if (client.trim()) query.client_uuid = { $glob: `${client.trim()}*` };
    if (engine.trim()) {
      const found = this.page.engines.get(Number(engine));
      query.engine_uuid = found ? found.uuid : engine.trim();
    }
    if (state === "unfinished") query.completed = null;
    if (state === "ok") query["result_metadata.status"] = "ok";
    if (state === "failed") {
      query.completed = { $ne: null };
      query["result_metadata.status"] = { $ne: "ok" };
    }
    if (age) query.submitted = { $gte: new Date(Date.now() - Number(age) * 60000).toISOString() };
    return query;
  }

  async run() {
    this.hasRun = true;
    if (this.page.about?.database === "none") return this.showEnded();
    put(byId("found"), "asking …");
    try {
      const found = await ask(`api/tasks?query=${encodeURIComponent(JSON.stringify(this.query()))}`);
      const some = found.count > found.records.length ? `; the newest ${count(found.records.length)} are shown` : "";
      put(byId("found"), `${count(found.count)} found${some}`);
      this.show(found.records.map((record) => this.ofRecord(record)));
    } catch (error) {
      put(byId("found"), error.message);
      this.show([]);
    }
  }

  ofRecord(record) {
    const time = (text) => (text ? milliseconds(text) : null);
    const [submitted, started, completed] = [record.submitted, record.started, record.completed].map(time);
    const engine = [...this.page.engines.values()].find((one) => one.uuid === record.engine_uuid);
    const state = completed == null ? "unfinished" : record.status ?? "ok";
    return {
      id: record.msg_id, label: record.label, queue: record.queue, state: state === "error" ? "failed" : state,
      engine: engine ? engine.id : record.engine_uuid ? shortId(record.engine_uuid) : "–",
      submitted, waited: started == null ? null : (started - submitted) / 1000,
      took: completed == null || started == null ? null : (completed - started) / 1000,
    };
  }

  /** Without a database: what the task stream remembers. */
  showEnded() {
    const { id, label, client, engine, state } = Object.fromEntries(new FormData(this.form));
    const matches = (text, wanted) => !wanted.trim() || wild(wanted.trim()).test(text ?? "");
    const found = this.page.stream.entries.filter((entry) => matches(entry[E.id], id) && matches(entry[E.label], label)
      && (entry[E.client] ?? "").startsWith(client.trim()) && (!engine.trim() || entry[E.engine] === Number(engine))
      && (!state || (state === "failed" ? entry[E.status] !== "ok" : state === entry[E.status])));
    put(byId("found"), `${count(found.length)} of the last that ended. This cluster keeps no records: ` +
      "“--sqlitedb”, “--dictdb” and “--mongodb” do.");
    this.show(found.slice(-200).reverse().map((entry) => ({
      id: entry[E.id], label: entry[E.label] ?? entry[E.name], queue: entry[E.queue], engine: entry[E.engine] ?? "–", state: entry[E.status],
      submitted: entry[E.submitted] == null ? null : this.page.started + entry[E.submitted] / 1000,
      waited: entry[E.submitted] == null ? null : (entry[E.started] - entry[E.submitted]) / 1e6,
      took: (entry[E.ended] - entry[E.started]) / 1e6, entry,
    })));
  }

  show(rows) {
    byId("task-table").tBodies[0].replaceChildren(...rows.map((row) => {
      const open = element("button", { type: "button", className: "link" }, shortId(row.id));
      open.addEventListener("click", () => openTask(this.page, row.id, row.entry));
      const number = (text) => element("td", { className: "number" }, text);
      return element("tr", {}, element("th", { scope: "row" }, open), element("td", { title: row.label ?? "" }, row.label ?? ""), element("td", {}, row.queue ?? ""),
        element("td", {}, String(row.engine)), element("td", {}, row.submitted == null ? "–" : clock(row.submitted)),
        number(duration(row.waited)), number(duration(row.took)), element("td", { className: `state ${row.state}` }, row.state));
    }));
  }
}

function wild(pattern) {
  const escaped = pattern.replace(/[.+^${}()|\\[\]]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  return new RegExp(/[*?]/.test(pattern) ? `^${escaped}$` : escaped);
}

/** Everything that is known of one task. */
export async function openTask(page, id, entry) {
  let [record, ended] = [null, entry];
  try {
    const found = await ask(`api/task?id=${encodeURIComponent(id)}`);
    [record, ended] = [found.record, found.ended ?? entry];
  } catch (error) {
    if (!entry) return showDetails(id, element("p", { className: "failed" }, error.message));
  }
  const content = record?.result_content ?? {};
  const failure = content.traceback ?? record?.error?.traceback;
  const plain = (text) => String(text).replace(/\u001b\[[0-9;]*m/g, "");
  const execution = record?.content?.code ?? record?.execute_input;
  const result = record?.execute_result?.data?.["text/plain"];
  showDetails(record?.label ?? ended?.[E.label] ?? ended?.[E.name] ?? id,
    fields([
      ["id", id], ["function", ended?.[E.name]], ["state", ended?.[E.status] ?? record?.result_metadata?.status ?? "unfinished"],
      ["error", ended?.[E.error] ?? (content.ename && `${content.ename}: ${content.evalue}`)],
      ["queue", record?.queue ?? ended?.[E.queue]], ["engine", ended?.[E.engine] == null ? record?.engine_uuid : String(ended[E.engine])],
      ["client", record?.client_uuid ?? ended?.[E.client]],
      ["submitted", record?.submitted ?? (ended?.[E.submitted] != null && page.clock(ended[E.submitted], true))],
      ["started", record?.started ?? (ended && page.clock(ended[E.started], true))],
      ["completed", record?.completed ?? (ended && page.clock(ended[E.ended], true))],
      ["took", ended && duration((ended[E.ended] - ended[E.started]) / 1e6)],
    ]),
    ...section("Code", execution), ...section("Result", result), ...section("Output", record?.stdout), ...section("Errors", record?.stderr),
    ...section("Traceback", failure && plain([failure].flat().join("\n"))),
    ...(record ? section("Metadata", JSON.stringify({ request: record.metadata, result: record.result_metadata }, null, 2)) : []));
}

// ---- log

const LEVELS = { trace: 0, debug: 0, info: 1, warning: 2, error: 3 };

export class LogView {
  constructor(page) {
    this.page = page;
    for (const id of ["log-level", "log-filter"]) byId(id).addEventListener("input", () => this.show());
  }

  show() {
    if (byId("log").hidden) return;
    const list = byId("lines");
    const isAtEnd = list.scrollTop + list.clientHeight > list.scrollHeight - 30;
    const least = Number(byId("log-level").value);
    const words = byId("log-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const lines = this.page.lines.filter(([, , level, component, text]) =>
      LEVELS[level] >= least && words.every((word) => `${component} ${text}`.toLowerCase().includes(word)));
    list.replaceChildren(...lines.map(([, at, level, component, text]) => element("li", { className: level },
      element("span", {}, clock(at, true)), element("span", {}, level), element("span", {}, component), element("span", {}, text))));
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }
}
