// The button that turns the microphone on and off, and what to do when there is none.
import { byId } from "./dom.js";

const TYPE_INSTEAD = "You can still type, and hear the answers.";
const REASONS = {
  permissions: "The browser does not let this page use the microphone. Allow it in the browser's site settings and turn it on again.",
  "not-found": "No microphone was found. Plug one in and turn it on again.",
  "in-use": "Another program uses the microphone. Close it there and turn it on again.",
  "undefined-mediadevices": "Browsers give the microphone only to pages on localhost or with https.",
};

export class Microphone {
  // onSwitch(on): the user wants it on or off.
  constructor(onSwitch) {
    this._button = byId("microphone");
    this._hint = byId("microphone-hint");
    this._button.addEventListener("click", () => {
      this._set(!this.on);
      this._hint.textContent = "";
      onSwitch(this.on);
    });
  }

  get on() {
    return this._button.getAttribute("aria-pressed") === "true";
  }

  works() {
    this._hint.textContent = "";
  }

  // `error`: the client's DeviceError.
  refused(error) {
    this._set(false);
    this._hint.textContent = `${REASONS[error.type] ?? `The microphone does not work: ${error.message}.`} ${TYPE_INSTEAD}`;
  }

  _set(on) {
    this._button.setAttribute("aria-pressed", String(on));
    this._button.textContent = on ? "Microphone on" : "Microphone off";
  }
}
