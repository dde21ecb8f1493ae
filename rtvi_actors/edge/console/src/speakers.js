// Who speaks, in words and in colour, and how loud.
import { byId } from "./dom.js";

// From the end of an answer's text to its first sound; after that there will be none.
const SOUND_DEADLINE_MS = 5000;

const USER = { off: "not connected", muted: "microphone off", silent: "silent", speaking: "speaking" };
const BOT = { off: "not connected", silent: "listening", thinking: "thinking", speaking: "speaking" };

export class Speakers {
  constructor() {
    this._user = byId("speaker-user");
    this._bot = byId("speaker-bot");
    this._microphone = true;
    this.user("off");
    this.bot("off");
  }

  user(state) {
    this._userState = state;
    const shown = state === "silent" && !this._microphone ? "muted" : state;
    show(this._user, shown, USER[shown]);
  }

  bot(state) {
    clearTimeout(this._settling);
    if (state !== "speaking") this.level("bot", 0);
    show(this._bot, state, BOT[state]);
  }

  // The answer's text is complete. Nobody says so if it has no sound.
  answerComplete() {
    if (this._bot.dataset.state === "thinking") this._settling = setTimeout(() => this.bot("silent"), SOUND_DEADLINE_MS);
  }

  microphone(on) {
    this._microphone = on;
    this.user(this._userState);
  }

  // 0..1
  level(who, level) {
    const speaker = who === "user" ? this._user : this._bot;
    speaker.style.setProperty("--level", level.toFixed(2));
  }
}

function show(speaker, state, words) {
  speaker.dataset.state = state;
  speaker.querySelector(".state").textContent = words;
  if (state === "off") speaker.style.setProperty("--level", "0");
}
