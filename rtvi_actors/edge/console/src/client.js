// Pipecat's client and WebSocket transport, with the two things that they receive and do not pass on.
import { PipecatClient } from "@pipecat-ai/client-js";
import { ProtobufFrameSerializer, WebSocketTransport } from "@pipecat-ai/websocket-transport";

export const BOT_INTERRUPTED = "botInterrupted";

// Emits BOT_INTERRUPTED: the client's own events have no name for it.
export class ConsoleClient extends PipecatClient {
  handleMessage(message) {
    super.handleMessage(message);
    if (message.type === "bot-interrupted") this.emit(BOT_INTERRUPTED);
  }
}

// Labels audio with the microphone's own rate: a browser that cannot record at 16 kHz records at its own.
class Serializer extends ProtobufFrameSerializer {
  constructor(media) {
    super();
    this._media = media;
  }

  serializeAudio(data, _rate, channels) {
    return super.serializeAudio(data, this._media.sampleRate, channels);
  }
}

// onClosed(code, reason): the server closed the connection, and why.
export class ConsoleTransport extends WebSocketTransport {
  constructor(media, onClosed) {
    super({ mediaManager: media, serializer: new Serializer(media) });
    this._onClosed = onClosed;
  }

  initializeWebsocket() {
    const socket = super.initializeWebsocket();
    // Before the transport's own listener, which reports a close as an error.
    socket.prependListener("close", this._onClosed);
    return socket;
  }
}
