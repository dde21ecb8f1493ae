// One session with the bot, from connect to its end. Made anew for each connection.
import { RTVIEvent } from "@pipecat-ai/client-js";
import { BOT_INTERRUPTED, ConsoleClient, ConsoleTransport } from "./client.js";
import { Media } from "./media.js";

// From the request for a session to bot-ready. The client itself would wait for ever.
const CONNECT_DEADLINE_MS = 20000;
const NORMAL_CLOSURE = 1000;
const ENDED = "The server has ended the session.";
const LOST = "The connection to the server was lost.";

const FORWARDED = [
  RTVIEvent.TransportStateChanged,
  RTVIEvent.BotReady,
  RTVIEvent.DeviceError,
  RTVIEvent.MicUpdated,
  RTVIEvent.UserStartedSpeaking,
  RTVIEvent.UserStoppedSpeaking,
  RTVIEvent.UserTranscript,
  RTVIEvent.BotLlmStarted,
  RTVIEvent.BotLlmStopped,
  RTVIEvent.BotStartedSpeaking,
  RTVIEvent.BotStoppedSpeaking,
  RTVIEvent.BotOutput,
  RTVIEvent.Metrics,
  BOT_INTERRUPTED,
];

export class Session {
  // bot: its name, null for the app's own.
  // onEvent(name, data): what the client reports. onProblem(text): something failed and the session goes on.
  // onEnded(reason): once, "" when the user ended it. onLevel: see Media.
  constructor({ bot, microphone, onEvent, onProblem, onEnded, onLevel }) {
    this._ended = false;
    this._wanted = { transport: "websocket", bot };
    this._reason = null;
    this._onEnded = onEnded;
    this._media = new Media(onLevel);
    this._client = new ConsoleClient({
      transport: new ConsoleTransport(this._media, (code, reason) => this._closed(code, reason)),
      enableMic: microphone,
      enableCam: false,
    });
    // The transport decodes on its own time: messages may come out of it after the end.
    for (const name of FORWARDED) this._client.on(name, (data) => this._ended || onEvent(name, data));
    this._client.on(BOT_INTERRUPTED, () => this._media.discardPlayback());
    this._client.on(RTVIEvent.TransportStateChanged, (state) => state === "authenticating" && this._watch());
    this._client.on(RTVIEvent.BotReady, () => clearTimeout(this._deadline));
    this._client.on(RTVIEvent.Disconnected, () => this._end());
    this._client.on(RTVIEvent.ServerMessage, (data) => {
      if (data?.type === "session-ending") onProblem(`This session ends in ${Math.round(data.ends_in_ms / 1000)} seconds.`);
      if (data?.type === "session-ended") this._reason ??= data.text;
    });
    this._client.on(RTVIEvent.MessageError, ({ data }) => onProblem(text(data)));
    this._client.on(RTVIEvent.Error, ({ data }) => {
      if (data.fatal) this._reason ??= text(data);
      else onProblem(text(data));
    });
  }

  // Never raises: whatever goes wrong ends the session, with a reason.
  async connect() {
    try {
      const place = await this._client.startBot({ endpoint: new URL("start", location.href), requestData: this._wanted });
      // Not startBotAndConnect: the user may have left in between.
      if (!this._ended) await this._client.connect(place);
    } catch (error) {
      this._reason ??= error.message;
      await this._leave();
    }
  }

  async disconnect() {
    this._reason = "";
    await this._leave();
  }

  sendText(content) {
    return this._client.sendText(content);
  }

  enableMicrophone(wanted) {
    this._client.enableMic(wanted);
  }

  _watch() {
    this._deadline = setTimeout(() => {
      this._reason ??= `The server did not answer within ${CONNECT_DEADLINE_MS / 1000} seconds.`;
      void this._leave();
    }, CONNECT_DEADLINE_MS);
  }

  // Comes before the transport's own report of it, which knows only the code.
  _closed(code, reason) {
    this._reason ??= reason || (code === NORMAL_CLOSURE ? ENDED : LOST);
  }

  async _leave() {
    await this._client.disconnect();
    this._end();
  }

  _end() {
    clearTimeout(this._deadline);
    if (this._ended) return;
    this._ended = true;
    this._onEnded(this._reason ?? LOST);
  }
}

function text(data) {
  return data?.error ?? data?.message ?? "unknown error";
}
