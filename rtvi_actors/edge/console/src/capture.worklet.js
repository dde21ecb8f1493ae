// The microphone as PCM16 mono, in blocks of about 16 ms.
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this._block = new Int16Array(Math.round(sampleRate * 0.016));
    this._filled = 0;
  }

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this._block[this._filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this._filled === this._block.length) {
        const block = this._block.slice();
        this.port.postMessage(block, [block.buffer]);
        this._filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
