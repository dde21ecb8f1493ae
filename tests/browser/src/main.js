// The unmodified Pipecat client, driven by the test through window.page. Everything it reports is kept in window.page.log.
import { PipecatClient, RTVIEvent } from "@pipecat-ai/client-js";
import { WavMediaManager, WebSocketTransport } from "@pipecat-ai/websocket-transport";

const log = [];
const note = (event, data) => log.push({ event, data: data ?? null, at_ms: performance.now() });

let microphone = null;

// A microphone made of WebAudio, so that the test decides when the recording is spoken. Silence flows in between, as from a
// real one.
function replaceMicrophone() {
  const context = new AudioContext({ sampleRate: 48000 });
  const destination = context.createMediaStreamDestination();
  const hum = context.createConstantSource();
  const level = context.createGain();
  level.gain.value = 1e-4; // never digital silence: the client cuts that off at the start
  hum.connect(level).connect(destination);
  hum.start();
  navigator.mediaDevices.getUserMedia = async () => {
    await context.resume();
    return destination.stream.clone();
  };
  microphone = { context, destination };
}

async function speak(url) {
  const bytes = await (await fetch(url)).arrayBuffer();
  const buffer = await microphone.context.decodeAudioData(bytes);
  const source = microphone.context.createBufferSource();
  source.buffer = buffer;
  source.connect(microphone.destination);
  source.start();
  note("utterance", { url, seconds: buffer.duration });
  return buffer.duration;
}

// What the bot's player puts on the loudspeaker: everything that is connected to an output is metered as well. The client itself
// reports levels with the Daily media manager only.
function meterLoudspeaker() {
  const connect = AudioNode.prototype.connect;
  const meters = new WeakMap();
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target instanceof AudioDestinationNode) {
      const context = this.context;
      if (!meters.has(context)) {
        const meter = context.createAnalyser();
        const samples = new Float32Array(meter.fftSize);
        setInterval(() => {
          meter.getFloatTimeDomainData(samples);
          const rms = Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length);
          if (rms > 0.005) note("botHeard", rms);
        }, 50);
        meters.set(context, meter);
      }
      connect.call(this, meters.get(context));
    }
    return connect.call(this, target, ...rest);
  };
}
meterLoudspeaker();

let client = null;

async function connect(wsUrl, { webAudio }) {
  if (webAudio) replaceMicrophone();
  client = new PipecatClient({
    // The default media manager loads code from a CDN; this one is offline. Both rates are given, since the transport labels
    // its frames with its own.
    transport: new WebSocketTransport({ wsUrl, mediaManager: new WavMediaManager(512, 16000) }),
    enableMic: true,
    enableCam: false,
  });
  for (const name of Object.values(RTVIEvent)) {
    if (name === RTVIEvent.LocalAudioLevel || name === RTVIEvent.RemoteAudioLevel) continue;
    client.on(name, (data) => {
      let plain = null;
      try {
        plain = JSON.parse(JSON.stringify(data ?? null));
      } catch {
        plain = String(data);
      }
      note(name, plain);
    });
  }
  return client.connect();
}

window.page = {
  log,
  connect,
  speak,
  sendText: (text) => client.sendText(text),
  disconnect: () => client.disconnect(),
  state: () => client?.state,
};
