// What has been said, as lines to show: RTVI events in, the line that changed out. Knows nothing of the page.
//
// A line of the user: { id, who: "user", text, final, typed }.
// A line of the bot:  { id, who: "bot", segments, over, interrupted }, each segment { heard, ahead, silent }: its text is heard + ahead;
// of `silent` text no sound is made, it is only read. A line that is to go has `removed`.

export class Conversation {
  constructor() {
    this._lines = 0;
    this._user = null;
    this._bot = null;
    this._segments = new Map();
  }

  // What the user says, as far as it is understood. The final text replaces what came before it.
  userText(text, final) {
    if (!text.trim()) return null;
    this._user ??= this._line({ who: "user", typed: false });
    const line = Object.assign(this._user, { text, final });
    if (final) this._user = null;
    return line;
  }

  userTyped(text) {
    return this._line({ who: "user", typed: true, text, final: true });
  }

  // The user spoke and nothing came of it: words that were shown while they spoke are taken back.
  userNotUnderstood() {
    const line = this._user;
    this._user = null;
    return line && { ...line, removed: true };
  }

  // A new answer begins. It has no line before there is something to show of it.
  answerStarted() {
    this._bot = null;
  }

  // The first sound. What the bot says on its own, a greeting for example, comes without answerStarted.
  speechStarted() {
    if (this._bot?.over) this._bot = null;
  }

  // One bot-output message: a segment's whole text, and how far it has been spoken.
  output({ segment_id: id, text, spoken_status: status, spoken_progress: progress, will_be_spoken: spoken }) {
    const entry = this._segments.get(id) ?? this._segment(id);
    const heard = status === "completed" ? text.length : (progress?.accumulated_text ?? "").length;
    // Sound that was heard stays heard, whatever order the messages come in.
    const length = Math.min(text.length, Math.max(heard, entry.segment.heard.length));
    Object.assign(entry.segment, { heard: text.slice(0, length), ahead: text.slice(length), silent: spoken === false });
    return entry.line;
  }

  speechStopped() {
    return this._close(false);
  }

  interrupted() {
    return this._close(true);
  }

  // The session is over: nothing of it goes on. The lines that changed.
  end() {
    const changed = [this.userNotUnderstood(), this._close(this._bot?.over === false)];
    this._bot = null;
    this._segments.clear();
    return changed.filter((line) => line !== null);
  }

  _close(interrupted) {
    const line = this._bot;
    if (line === null || line.over) return null;
    return Object.assign(line, { over: true, interrupted: interrupted && line.segments.some(({ silent }) => !silent) });
  }

  _segment(id) {
    this._bot ??= this._line({ who: "bot", segments: [], over: false, interrupted: false });
    const segment = { heard: "", ahead: "", silent: false };
    const entry = { line: this._bot, segment };
    this._bot.segments.push(segment);
    this._segments.set(id, entry);
    return entry;
  }

  _line(fields) {
    return { id: this._lines++, ...fields };
  }
}
