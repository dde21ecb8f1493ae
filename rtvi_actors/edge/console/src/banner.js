// What went wrong, calmly, until it is dismissed or something better happens.
import { byId } from "./dom.js";

export class Banner {
  constructor(onReconnect) {
    this._banner = byId("banner");
    this._action = byId("banner-action");
    this._action.addEventListener("click", () => {
      this.hide();
      onReconnect();
    });
    byId("banner-close").addEventListener("click", () => this.hide());
  }

  // `reconnect`: with a button for it.
  show(text, { reconnect = false } = {}) {
    byId("banner-text").textContent = text;
    this._action.hidden = !reconnect;
    this._banner.hidden = false;
  }

  hide() {
    this._banner.hidden = true;
  }
}
