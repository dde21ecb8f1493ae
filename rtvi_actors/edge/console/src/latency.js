// Where the time of each turn went: a bar of segments per turn, on one scale, or the same figures as a table.
import { byId, element, milliseconds } from "./dom.js";

const SEGMENTS = {
  endpointing: "waiting for the end of your turn",
  stt: "speech to text",
  llm: "first word of the model",
  clause: "first clause complete",
  tts: "first sound made",
  playout: "first sound sent",
};
const KEPT_TURNS = 50;

export class Latency {
  constructor() {
    this._turns = [];
    this._box = byId("latency");
    this._button = byId("latency-table");
    this._button.addEventListener("click", () => this._toggle());
    for (const [name, meaning] of Object.entries(SEGMENTS)) {
      const swatch = element("span", { class: `swatch segment-${name}`, "aria-hidden": "true" });
      byId("latency-legend").append(element("li", {}, swatch, element("b", {}, name), ` ${meaning}`));
    }
  }

  // A metrics message; most of them carry other figures than a turn's latency.
  metrics(data) {
    for (const turn of data?.turn_latency ?? []) {
      this._turns.unshift({ ...turn, total: turn.segments.reduce((sum, { value }) => sum + value, 0) });
    }
    this._turns.length = Math.min(this._turns.length, KEPT_TURNS);
    if (data?.turn_latency?.length) this._show();
  }

  clear() {
    this._turns = [];
    this._show();
  }

  _toggle() {
    const table = this._button.getAttribute("aria-pressed") !== "true";
    this._button.setAttribute("aria-pressed", String(table));
    this._show();
  }

  _show() {
    const table = this._button.getAttribute("aria-pressed") === "true";
    byId("latency-legend").hidden = table;
    if (this._turns.length === 0) this._box.replaceChildren(element("p", { class: "hint" }, "No turn yet."));
    else this._box.replaceChildren(table ? asTable(this._turns) : asBars(this._turns));
  }
}

function asBars(turns) {
  const longest = Math.max(...turns.map(({ total }) => total), 0.001);
  return element("ol", { class: "bars", reversed: "" }, ...turns.map((turn) => bar(turn, longest)));
}

function bar(turn, longest) {
  const parts = turn.segments.map(({ name, value }) => {
    const part = element("span", { class: `segment segment-${name}`, title: `${name} ${milliseconds(value)}` });
    part.style.flexGrow = String(value * 1000);
    return part;
  });
  const described = turn.segments.map(({ name, value }) => `${name} ${milliseconds(value)}`).join(", ");
  const stack = element("span", { class: "stack", role: "img", "aria-label": `Turn ${turn.turn}: ${described}` }, ...parts);
  stack.style.width = `${(100 * turn.total) / longest}%`;
  const figures = element("span", { class: "figures" }, `Turn ${turn.turn}: `, element("b", {}, milliseconds(turn.total)));
  if (turn.own_share !== undefined) figures.append(`, own share ${milliseconds(turn.own_share)}`);
  return element("li", {}, figures, stack);
}

function asTable(turns) {
  const names = Object.keys(SEGMENTS);
  const head = element("tr", {}, ...["turn", "total", "own share", ...names].map((name) => element("th", { scope: "col" }, name)));
  const rows = turns.map((turn) => {
    const values = Object.fromEntries(turn.segments.map(({ name, value }) => [name, value]));
    const cells = [turn.total, turn.own_share ?? 0, ...names.map((name) => values[name] ?? 0)];
    return element("tr", {}, element("th", { scope: "row" }, String(turn.turn)), ...cells.map(cell));
  });
  const caption = element("caption", {}, "Milliseconds. Own share: neither waiting nor a model's computing.");
  const table = element("table", {}, caption, element("thead", {}, head), element("tbody", {}, ...rows));
  return element("div", { class: "scroll", role: "region", "aria-label": "Latency table", tabindex: "0" }, table);
}

function cell(seconds) {
  return element("td", {}, String(Math.round(seconds * 1000)));
}
