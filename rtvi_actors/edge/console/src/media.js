// Microphone and loudspeaker for the WebSocket transport: what its media managers do, with these differences. Nothing is loaded from
// elsewhere; a microphone that is refused or missing leaves a session in which one can type and hear; nothing recorded is
// kept; what waits to be played can be discarded.
import { DeviceError } from "@pipecat-ai/client-js";
import captureUrl from "./capture.worklet.js?url";
import playbackUrl from "./playback.worklet.js?url";

const CAPTURE_RATE_HZ = 16000;
const PLAYBACK_RATE_HZ = 24000; // what the server sends

const VOICE = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };

const REFUSALS = { NotAllowedError: "permissions", NotFoundError: "not-found", NotReadableError: "in-use" };

export class Media {
  // onLevel("user" or "bot", 0..1): the loudness of a block.
  constructor(onLevel) {
    this.sampleRate = CAPTURE_RATE_HZ;
    this.supportsScreenShare = false;
    this._onLevel = onLevel;
    this._callbacks = {};
    this._send = () => {};
    this._wanted = true;
    this._live = false;
    this._opening = null;
    this._capture = null;
    this._playback = null;
  }

  // ------------------------------------------------------------------------------------------ what the transport calls

  setUserAudioCallback(send) {
    this._send = send;
  }

  setClientOptions({ callbacks, enableMic }) {
    this._callbacks = callbacks ?? {};
    this._wanted = enableMic ?? true;
  }

  async initialize() {
    this._playback ??= await startPlayback();
    if (this._wanted) await this._openMicrophone();
  }

  async connect() {
    await this.initialize();
    this._live = true;
  }

  // For good: every session has media of its own.
  async disconnect() {
    this._live = this._wanted = false;
    this._capture?.stop();
    await this._playback?.context.close();
    this._capture = this._playback = null;
  }

  bufferBotAudio(samples) {
    this._playback?.node.port.postMessage(samples);
    this._onLevel("bot", loudness(samples));
    return samples;
  }

  async enableMic(wanted) {
    this._wanted = wanted;
    this._capture?.enable(wanted);
    if (!wanted) this._onLevel("user", 0);
    else if (this._live) await this._openMicrophone();
  }

  get isMicEnabled() {
    return this._wanted;
  }

  tracks() {
    const audio = this._capture?.track;
    return { local: audio ? { audio } : {} };
  }

  // ------------------------------------------------------------------------------------------------- what the page calls

  // The server cannot take back what it has sent ahead: up to 80 ms.
  discardPlayback() {
    this._playback?.node.port.postMessage(null);
  }

  // -------------------------------------------------------------------------------------------------------------- inside

  // Never raises: without a microphone the session goes on.
  _openMicrophone() {
    this._opening ??= this._open().finally(() => {
      this._opening = null;
    });
    return this._opening;
  }

  async _open() {
    if (this._capture !== null) return;
    try {
      this._capture = await startCapture((samples) => this._recorded(samples));
    } catch (error) {
      this._wanted = false;
      const type = REFUSALS[error.name] ?? (navigator.mediaDevices ? "unknown" : "undefined-mediadevices");
      this._callbacks.onDeviceError?.(new DeviceError(["mic"], type, error.message));
      return;
    }
    this.sampleRate = this._capture.sampleRate;
    // Muted, or disconnected, while the browser was asking.
    if (this._playback === null) this._capture.stop();
    else this._capture.enable(this._wanted);
    this._callbacks.onMicUpdated?.({ deviceId: this._capture.track.getSettings().deviceId, label: this._capture.track.label });
  }

  _recorded(samples) {
    if (!this._wanted) return;
    this._onLevel("user", loudness(samples));
    if (this._live) this._send(samples.buffer);
  }
}

async function startCapture(onSamples) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: VOICE });
  const [track] = stream.getAudioTracks();
  try {
    const { context, source } = openCapture(stream);
    await context.audioWorklet.addModule(captureUrl);
    const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => onSamples(data);
    source.connect(node);
    return {
      track,
      sampleRate: context.sampleRate,
      enable: (enabled) => (track.enabled = enabled),
      stop: () => {
        track.stop();
        void context.close();
      },
    };
  } catch (error) {
    track.stop();
    throw error;
  }
}

// Firefox does not resample a microphone to its context's rate; there the context takes the device's, and the server resamples.
function openCapture(stream) {
  const context = new AudioContext({ sampleRate: CAPTURE_RATE_HZ });
  try {
    return { context, source: context.createMediaStreamSource(stream) };
  } catch {
    void context.close();
    const native = new AudioContext();
    return { context: native, source: native.createMediaStreamSource(stream) };
  }
}

async function startPlayback() {
  const context = new AudioContext({ sampleRate: PLAYBACK_RATE_HZ });
  await context.audioWorklet.addModule(playbackUrl);
  const node = new AudioWorkletNode(context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
  node.connect(context.destination);
  return { context, node };
}

// Root mean square on a scale on which speech moves: -60 dB is 0, -10 dB is 1.
function loudness(samples) {
  let sum = 0;
  for (const sample of samples) sum += (sample / 32768) ** 2;
  const level_db = 10 * Math.log10(sum / samples.length + 1e-10);
  return Math.max(0, Math.min(1, (level_db + 60) / 50));
}
