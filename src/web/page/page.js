// The status page: hears of what happens, and shows it. Everything that it keeps is bounded.

import { Charts, chartSpan } from "./charts.js";
import { FunctionTable } from "./functions.js";
import { Progress } from "./progress.js";
import { TaskStream, runningEntry } from "./stream.js";
import { EngineTable, LogView, TaskSearch, isUp, openTask, showDeparted } from "./tables.js";
import { byId, clock, count, put, rate } from "./words.js";

/** Samples, one a second, and lines of the log that are kept. */
const [SAMPLES, LINES] = [3600, 500];

/** Milliseconds between two things that a screen reader says unasked, and between pictures for those who want them calm. */
const [SPEAK, CALM] = [5000, 2000];

// The cookie has it: it need not stand in the history, nor be seen by whoever looks at the screen.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);

class Page {
  constructor() {
    this.engines = new Map();
    this.clients = new Map();
    this.samples = [];
    this.lines = [];
    this.totals = {};
    this.offset = 0; // from this machine's clock to the controller's, in microseconds
    this.charts = new Charts(byId("charts"));
    this.stream = new TaskStream(byId("stream"), {
      tip: byId("tip"), legend: byId("legend"), now: () => this.now(), open: (entry) => openTask(this, entry[7], entry),
      running: () => [...this.engines.values()].filter((engine) => engine.current).map(runningEntry),
    });
    this.progress = new Progress(this);
    this.functions = new FunctionTable(this);
    this.engineTable = new EngineTable(this);
    this.search = new TaskSearch(this);
    this.log = new LogView(this);
    this.stale = new Set();
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.listen();
    this.control();
    setInterval(() => this.tick(), 250);
  }

  /** Microseconds since the controller's beginning, by its clock. */
  now() {
    return performance.now() * 1000 + this.offset;
  }

  /** The hour of a moment. */
  clock(micros, withMillis) {
    return clock(this.started + micros / 1000, withMillis);
  }

  // ---- hearing

  listen() {
    const source = new EventSource("events");
    source.onmessage = (event) => this.onMessage(JSON.parse(event.data));
    source.onerror = () => {
      byId("connection").className = "lost";
      put(byId("connection").lastElementChild, "not connected");
      byId("notice").hidden = false;
      put(byId("notice"), "The controller cannot be reached: what you see is how it was. This page tries again.");
      if (source.readyState === EventSource.CLOSED) {
        put(byId("notice"), "The controller does not let this page in: it has ended, too many pages are open, or the token " +
          "has changed. “ipcluster dashboard” prints the address.");
        setTimeout(() => this.listen(), 5000);
      }
    };
  }

  onMessage(message) {
    this.offset = message.now == null ? this.offset : message.now - performance.now() * 1000;
    if (message.kind === "state") this.onState(message);
    this.onChanges(message);
    byId("connection").className = "live";
    put(byId("connection").lastElementChild, "live");
    byId("notice").hidden = true;
  }

  /** Everything anew. */
  onState(state) {
    const isOther = this.started !== undefined && this.started !== state.started;
    this.started = state.started;
    this.about = state.about;
    this.engines.clear();
    this.clients.clear();
    this.samples = [];
    this.lines = [];
    if (isOther) this.stream.clear();
    this.engineTable.clear();
    const { profile, cluster_id: id } = state.about;
    put(byId("cluster"), id ? `${profile} · ${id}` : profile);
    document.title = `ipcluster · ${profile}`;
  }

  onChanges(message) {
    const died = (message.engines ?? []).filter((engine) => engine.phase === "dead" && this.engines.get(engine.id)?.phase === "up");
    for (const engine of message.engines ?? []) this.engines.set(engine.id, engine);
    if (died.length) this.say(died.length > 1 ? `${count(died.length)} engines have died` : `Engine ${died[0].id} has died: ${died[0].how}`);
    for (const id of message.gone ?? []) this.engines.delete(id);
    this.engineTable.touch(message.engines ?? [], message.gone ?? []);
    for (const client of message.clients ?? []) this.clients.set(client.client, client);
    if (this.clients.size > 200) {
      const oldest = [...this.clients.values()].sort((a, b) => a.at - b.at).slice(0, this.clients.size - 200);
      for (const client of oldest) this.clients.delete(client.client);
    }
    if (message.departed) showDeparted(this, message.departed);
    const lastSample = this.samples.at(-1)?.[0] ?? -1;
    this.samples.push(...(message.samples ?? []).filter((sample) => sample[0] > lastSample));
    this.samples.splice(0, this.samples.length - SAMPLES);
    const lastLine = this.lines.at(-1)?.[0] ?? -1;
    const lines = (message.log ?? []).filter((line) => line[0] > lastLine);
    this.lines.push(...lines);
    this.lines.splice(0, this.lines.length - LINES);
    if (message.totals) this.totals = message.totals;
    if (message.stream) this.stream.add(message.stream, message.ended);
    this.unfollowed = message.unfollowed ?? this.unfollowed;
    this.stale.add("figures");
    if (lines.length || message.kind === "state") this.log.show();
  }

  // ---- showing

  tick() {
    if (document.hidden || this.started === undefined) return;
    if (this.stale.delete("figures")) {
      this.showTiles();
      this.charts.draw(this.samples, chartSpan());
      this.progress.show();
      this.stream.setEngines(this.engines.keys());
      this.functions.show();
    }
    const now = performance.now();
    const isCalm = this.calm.matches && now < (this.drew ?? 0) + CALM;
    if (!byId("overview").hidden && this.stream.end == null && !isCalm) {
      this.drew = now;
      this.stream.redraw();
    }
    this.engineTable.show();
  }

  sum(what) {
    return Object.values(this.totals).reduce((sum, queue) => sum + queue[what], 0);
  }

  showTiles() {
    const engines = [...this.engines.values()].filter(isUp);
    const coming = [...this.engines.values()].filter((engine) => ["starting", "restarting"].includes(engine.phase)).length;
    const busy = engines.filter((engine) => engine.tasks + engine.queue > 0).length;
    put(byId("n-engines"), count(engines.length));
    put(byId("n-busy"), (engines.length ? `${count(busy)} busy` : "none is registered") + (coming ? `, ${count(coming)} starting` : ""));
    put(byId("n-waiting"), count(this.sum("waiting")));
    const blocked = this.sum("blocked");
    put(byId("n-blocked"), blocked ? `${count(blocked)} of them for dependencies` : "no engine has them yet");
    put(byId("n-running"), count(this.sum("running")));
    put(byId("n-done"), count(this.sum("ok")));
    put(byId("n-rate"), `${rate(this.samples.at(-1)?.[2] ?? 0)} per second`);
    put(byId("n-failed"), count(this.sum("failed")));
    put(byId("n-aborted"), `${count(this.sum("aborted"))} aborted`);
    byId("n-failed").parentElement.classList.toggle("some", this.sum("failed") > 0);
    const hidden = this.unfollowed ? `, ${count(this.unfollowed)} were too many to be followed` : "";
    put(byId("stream-title"), `Task stream (${count(this.stream.total)} ended${hidden})`);
  }

  // ---- hands

  control() {
    const tabs = [...document.querySelectorAll("[role=tab]")];
    const select = (tab, focus) => {
      for (const one of tabs) {
        const isIt = one === tab;
        one.setAttribute("aria-selected", isIt);
        one.tabIndex = isIt ? 0 : -1;
        byId(one.getAttribute("aria-controls")).hidden = !isIt;
      }
      if (focus) tab.focus();
      // By way of the hash, the browser would move the focus into the panel.
      history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
      this.stale.add("figures");
      this.engineTable.isStale = true;
      if (tab.id === "tab-log") this.log.show();
      if (tab.id === "tab-tasks") this.search.first();
    };
    for (const [at, tab] of tabs.entries()) {
      tab.addEventListener("click", () => select(tab));
      tab.addEventListener("keydown", (event) => {
        const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
        if (to !== undefined) select(tabs[(to + tabs.length) % tabs.length], true);
      });
    }
    const named = tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash);
    if (named) select(named);

    const redraw = () => { this.stale.add("figures"); this.stream.redraw(); };
    byId("span").addEventListener("change", redraw);
    byId("colour").addEventListener("change", (event) => this.stream.colourBy(event.target.value));
    byId("zoom-in").addEventListener("click", () => this.stream.zoom(0.6));
    byId("zoom-out").addEventListener("click", () => this.stream.zoom(1.6));
    byId("live").addEventListener("click", () => this.stream.moveTo(this.stream.end == null ? this.now() - 1 : null));
    this.stream.onLive = (isLive) => byId("live").setAttribute("aria-pressed", isLive);
    window.addEventListener("resize", redraw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

    const root = document.documentElement;
    const kept = localStorage.getItem("theme");
    if (kept) root.dataset.theme = kept;
    byId("theme").addEventListener("click", () => {
      const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = isDark ? "light" : "dark";
      localStorage.setItem("theme", root.dataset.theme);
      redraw();
    });
  }

  /** Tells those who do not see it: seldom enough to be listened to. */
  say(text) {
    this.unsaid = text;
    const now = performance.now();
    if (this.timer || now < (this.said ?? -SPEAK) + SPEAK) {
      this.timer ??= setTimeout(() => { this.timer = null; this.say(this.unsaid); }, SPEAK);
      return;
    }
    this.said = now;
    put(byId("said"), text);
  }

  /** How much is kept: for tests, and for whoever wonders. */
  sizes() {
    return {
      engines: this.engines.size, clients: this.clients.size, samples: this.samples.length, lines: this.lines.length,
      stream: this.stream.entries.length, colours: this.stream.colours.size,
      nodes: document.getElementsByTagName("*").length,
    };
  }
}

window.ipcluster = new Page();
