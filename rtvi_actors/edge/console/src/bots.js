// Which bot to talk with, where the app has more than one.
import { byId, element } from "./dom.js";

export class BotChoice {
  constructor() {
    this._select = byId("bot");
  }

  // `names`: of the bots beside the app's own.
  offer(names) {
    if (this._select.options.length === names.length + 1) return;
    const options = names.map((name) => element("option", { value: name }, name));
    this._select.replaceChildren(element("option", { value: "" }, "the app's own"), ...options);
    byId("bot-choice").hidden = names.length === 0;
  }

  // null: the app's own.
  get name() {
    return this._select.value || null;
  }
}
