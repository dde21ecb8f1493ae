// Sessions and engines of the whole app, asked for while the page is looked at.
import { byId, element } from "./dom.js";

const PERIOD_MS = 1500;
const DEADLINE_MS = 5000;

export class Live {
  // onBots(names): the bots that there are to choose from.
  constructor(onBots) {
    this._onBots = onBots;
    this._box = byId("live");
    this._timer = null;
    document.addEventListener("visibilitychange", () => this._schedule(0));
    this._schedule(0);
  }

  _schedule(delay_ms) {
    clearTimeout(this._timer);
    if (!document.hidden) this._timer = setTimeout(() => this._refresh(), delay_ms);
  }

  async _refresh() {
    try {
      const response = await fetch("api/status", { signal: AbortSignal.timeout(DEADLINE_MS) });
      const facts = await response.json();
      if (!response.ok) throw new Error(facts.detail);
      this._onBots(facts.bots);
      this._box.replaceChildren(...content(facts));
    } catch (error) {
      this._box.replaceChildren(element("p", { class: "hint" }, `The server's state is not known: ${error.message}`));
    }
    this._schedule(PERIOD_MS);
  }
}

function content({ capacity, sessions, engines }) {
  const { sessions: taken, max_sessions: most, free, refused } = capacity;
  return [
    element("p", {}, `${taken} of ${most} sessions taken, ${free} can start at once, ${refused} refused so far.`),
    table("Sessions", ["session", "bot", "age", "turns", "latency"], sessions.map(session)),
    table("Engines", ["engine", "state", "model", "memory"], engines.map(engine)),
  ];
}

function session({ session: name, bot, age_s, turns, latency_ms }) {
  const last = latency_ms.length > 0 ? `${Math.round(latency_ms.at(-1))} ms` : "none yet";
  return [name, bot, duration(age_s), turns === null ? "unknown" : String(turns), last];
}

function engine({ kind, state, model, memory_bytes }) {
  return [kind, state, model, memory_bytes ? `${Math.round(memory_bytes / 2 ** 20)} MiB` : "unknown"];
}

function duration(seconds) {
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

function table(title, columns, rows) {
  const head = element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map(([first, ...rest]) => {
    return element("tr", {}, element("th", { scope: "row" }, first), ...rest.map((text) => element("td", {}, text)));
  });
  if (rows.length === 0) body.push(element("tr", {}, element("td", { colspan: columns.length }, "none")));
  const made = element("table", {}, element("caption", {}, title), element("thead", {}, head), element("tbody", {}, ...body));
  return element("div", { class: "scroll", role: "region", "aria-label": title, tabindex: "0" }, made);
}
