// The lines of the conversation on the page, and what a screen reader says of them.
import { byId, element } from "./dom.js";

const KEPT_LINES = 200;
const ANNOUNCED_LINES = 20;
const NEAR_END_PX = 80;

export class Captions {
  constructor() {
    this._list = byId("captions");
    this._box = byId("captions-box");
    this._empty = byId("captions-empty");
    this._announcer = byId("announcer");
    this._items = new Map();
    this._announced = new Map();
  }

  // Show a line as it is now; the same line again replaces it.
  show(line) {
    if (line === null) return;
    const followed = this._atEnd();
    if (line.removed) {
      this._items.get(line.id)?.remove();
      this._items.delete(line.id);
    } else {
      const item = this._item(line);
      item.replaceChildren(speaker(line), line.who === "user" ? userText(line) : botText(line));
      item.className = classes(line);
      this._announce(line);
    }
    this._empty.hidden = this._items.size > 0;
    if (followed) this._box.scrollTop = this._box.scrollHeight;
  }

  _item(line) {
    let item = this._items.get(line.id);
    if (!item) {
      item = this._list.appendChild(element("li"));
      this._items.set(line.id, item);
      const [oldest] = this._items;
      if (this._items.size > KEPT_LINES) {
        oldest[1].remove();
        this._items.delete(oldest[0]);
      }
    }
    return item;
  }

  // Whoever has scrolled up to read is not taken away from there.
  _atEnd() {
    return this._box.scrollHeight - this._box.scrollTop - this._box.clientHeight < NEAR_END_PX;
  }

  // Final texts only, each once: words that still change would be read out again and again.
  _announce(line) {
    if (line.who === "user" && line.final) this._say(line, `You: ${line.text}`, 1);
    if (line.who === "bot") {
      const told = line.segments.filter(({ ahead, silent }) => silent || !ahead);
      const before = this._announced.get(line.id) ?? 0;
      const text = told.slice(before).map(whole).join(" ");
      if (text) this._say(line, `Bot: ${text}`, told.length);
    }
  }

  _say(line, text, segments) {
    if (this._announced.get(line.id) === segments) return;
    this._announced.set(line.id, segments);
    this._announcer.append(element("p", {}, text));
    while (this._announcer.childElementCount > ANNOUNCED_LINES) this._announcer.firstElementChild.remove();
  }
}

const whole = ({ heard, ahead }) => heard + ahead;

function classes(line) {
  return ["line", line.who, line.final === false && "interim", line.interrupted && "interrupted"].filter(Boolean).join(" ");
}

function speaker(line) {
  const how = line.typed ? " (typed)" : line.interrupted ? " (interrupted)" : "";
  return element("span", { class: "who" }, (line.who === "user" ? "You" : "Bot") + how);
}

function userText(line) {
  return element("span", { class: "text" }, line.text);
}

// Heard text, the word that was spoken last marked; then what is still to come, or what was never heard.
function botText(line) {
  const text = element("span", { class: "text" });
  const current = line.over ? -1 : line.segments.findLastIndex(({ heard }) => heard);
  line.segments.forEach((segment, index) => {
    if (index > 0) text.append(" ");
    text.append(...spoken(segment, index === current));
  });
  return text;

  function spoken({ heard, ahead, silent }, isCurrent) {
    if (silent) return [element("span", { class: "silent" }, heard + ahead)];
    const parts = [];
    const lastWord = isCurrent ? heard.search(/\S+\s*$/) : -1;
    const before = lastWord < 0 ? heard : heard.slice(0, lastWord);
    if (before) parts.push(element("span", { class: "heard" }, before));
    if (lastWord >= 0) parts.push(element("mark", {}, heard.slice(lastWord)));
    if (ahead) parts.push(element(line.interrupted ? "del" : "span", { class: "ahead" }, ahead));
    return parts;
  }
}
