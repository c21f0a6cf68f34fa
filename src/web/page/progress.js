// How far clients are with what they have submitted.

import { byId, count, duration, element, put } from "./words.js";

/** Clients that are shown. */
const SHOWN = 20;

/** What a client's requests can be, in the order of the bar: how it is called, and how many there are. */
const PARTS = [
  ["done", "done", (client) => client.done - client.failed],
  ["failed", "failed", (client) => client.failed],
  ["running", "running", (client) => Math.max(client.total - client.done - client.blocked - client.ready, 0)],
  ["ready", "ready", (client) => client.ready],
  ["blocked", "waiting for dependencies", (client) => client.blocked],
];

export class Progress {
  constructor(page) {
    this.page = page;
    this.nobody = byId("clients").querySelector(".empty");
    byId("parts").append(...PARTS.map(([name, words]) =>
      element("li", {}, element("i", { className: `part-${name}` }), words)));
  }

  show() {
    const list = byId("clients");
    const clients = [...this.page.clients.values()].sort((a, b) => b.at - a.at).slice(0, SHOWN);
    byId("parts").hidden = !clients.length;
    this.nobody.hidden = clients.length > 0;
    const rows = new Map([...list.querySelectorAll(".client")].map((row) => [row.dataset.client, row]));
    let before = null;
    for (const client of clients) {
      const row = rows.get(client.client) ?? this.newRow(client.client);
      rows.delete(client.client);
      this.fill(row, client);
      const after = before ? before.nextSibling : list.firstChild;
      if (after !== row) list.insertBefore(row, after);
      before = row;
    }
    for (const row of rows.values()) row.remove();
    this.showInTitle(clients);
  }

  newRow(session) {
    const bar = element("div", { className: "parts" }, ...PARTS.map(([name]) => element("i", { className: `part-${name}` })));
    bar.setAttribute("role", "progressbar");
    bar.setAttribute("aria-label", `Progress of client ${session.slice(0, 8)}`);
    const row = element("li", { className: "client" }, element("div", {}, element("span"), " ", element("code")), bar, element("div"));
    row.dataset.client = session;
    return row;
  }

  fill(row, client) {
    const [what, bar, words] = row.children;
    put(what.firstElementChild, client.name ?? "requests");
    what.title = `${client.name ?? "requests"}, client ${client.client}`;
    put(what.lastElementChild, `client ${client.client.slice(0, 8)}`);
    const parts = PARTS.map(([name, called, of]) => [name, called, of(client)]);
    const total = Math.max(client.total, 1);
    for (const [at, [, , number]] of parts.entries()) bar.children[at].style.width = `${(100 * number) / total}%`;
    const said = parts.filter(([name, , number]) => number && name !== "done").map(([, called, number]) => `${count(number)} ${called}`);
    // As time goes on, so does what was estimated.
    const gone = (this.page.now() - client.at) / 1e6;
    const left = client.left == null || client.done === client.total ? [] : [`${duration(Math.max(client.left - gone, 0))} left`];
    const head = `${count(client.done)} of ${count(client.total)}`;
    bar.setAttribute("aria-valuemin", 0);
    bar.setAttribute("aria-valuemax", total);
    bar.setAttribute("aria-valuenow", client.done);
    bar.setAttribute("aria-valuetext", [head, ...said].join(", "));
    const text = [head, ...left, ...said].join(" · ");
    if (words.dataset.text === text) return;
    words.dataset.text = text;
    const nodes = [head, ...left, ...said].flatMap((word) =>
      [" · ", word.endsWith(" failed") ? element("span", { className: "failed" }, word) : word]);
    words.replaceChildren(...nodes.slice(1));
  }

  /** A tab in the background tells how far everything is. */
  showInTitle(clients) {
    const running = clients.filter((client) => client.done < client.total);
    const sum = (of) => running.reduce((all, client) => all + of(client), 0);
    const part = running.length ? `${Math.floor((100 * sum((client) => client.done)) / sum((client) => client.total))}% · ` : "";
    const title = `${part}ipcluster · ${this.page.about?.profile ?? ""}`;
    if (document.title !== title) document.title = title;
  }
}
