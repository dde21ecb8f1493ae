// The console: events of a session in, the parts of the page out.
import { RTVIEvent } from "@pipecat-ai/client-js";
import { Banner } from "./banner.js";
import { BotChoice } from "./bots.js";
import { Captions } from "./captions.js";
import { BOT_INTERRUPTED } from "./client.js";
import { Conversation } from "./conversation.js";
import { byId } from "./dom.js";
import { Latency } from "./latency.js";
import { Live } from "./live.js";
import { Microphone } from "./microphone.js";
import { Session } from "./session.js";
import { Speakers } from "./speakers.js";

// After the user has stopped, the final transcript follows at once; words without one were no turn.
const NOT_UNDERSTOOD_MS = 3000;

const captions = new Captions();
const speakers = new Speakers();
const latency = new Latency();
const banner = new Banner(connect);
const microphone = new Microphone((on) => {
  session?.enableMicrophone(on);
  speakers.microphone(on);
});
const bots = new BotChoice();
new Live((names) => bots.offer(names));

const conversation = new Conversation();
let session = null;
let notUnderstood = 0;

const REACTIONS = {
  [RTVIEvent.TransportStateChanged]: (state) => {
    byId("transport").textContent = state;
  },
  [RTVIEvent.BotReady]: () => {
    talking(true);
    byId("text").focus();
  },
  [RTVIEvent.DeviceError]: (error) => {
    microphone.refused(error);
    speakers.microphone(false);
  },
  [RTVIEvent.MicUpdated]: () => microphone.works(),
  [RTVIEvent.UserStartedSpeaking]: () => {
    clearTimeout(notUnderstood);
    speakers.user("speaking");
  },
  [RTVIEvent.UserStoppedSpeaking]: () => {
    speakers.user("silent");
    notUnderstood = setTimeout(() => captions.show(conversation.userNotUnderstood()), NOT_UNDERSTOOD_MS);
  },
  [RTVIEvent.UserTranscript]: ({ text, final }) => captions.show(conversation.userText(text, final)),
  [RTVIEvent.BotLlmStarted]: () => {
    conversation.answerStarted();
    speakers.bot("thinking");
  },
  [RTVIEvent.BotLlmStopped]: () => speakers.answerComplete(),
  [RTVIEvent.BotStartedSpeaking]: () => {
    conversation.speechStarted();
    speakers.bot("speaking");
  },
  [RTVIEvent.BotOutput]: (data) => captions.show(conversation.output(data)),
  [RTVIEvent.BotStoppedSpeaking]: () => {
    captions.show(conversation.speechStopped());
    speakers.bot("silent");
  },
  [BOT_INTERRUPTED]: () => {
    captions.show(conversation.interrupted());
    speakers.bot("silent");
  },
  [RTVIEvent.Metrics]: (data) => latency.metrics(data),
};

async function connect() {
  banner.hide();
  latency.clear();
  byId("connect").textContent = "Disconnect";
  session = new Session({
    bot: bots.name,
    microphone: microphone.on,
    onEvent: (name, data) => REACTIONS[name](data),
    onProblem: (text) => banner.show(text),
    onLevel: (who, level) => speakers.level(who, level),
    onEnded: ended,
  });
  await session.connect();
}

function ended(reason) {
  session = null;
  clearTimeout(notUnderstood);
  conversation.end().forEach((line) => captions.show(line));
  talking(false);
  byId("transport").textContent = "disconnected";
  byId("connect").textContent = "Connect";
  if (reason) banner.show(`The session has ended: ${reason}`, { reconnect: true });
}

function talking(on) {
  byId("text").disabled = byId("send").disabled = !on;
  speakers.user(on ? "silent" : "off");
  speakers.bot(on ? "silent" : "off");
}

byId("connect").addEventListener("click", () => {
  if (session === null) void connect();
  else void session.disconnect();
});

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text || session === null) return;
  captions.show(conversation.userTyped(text));
  byId("text").value = "";
  void session.sendText(text);
});
