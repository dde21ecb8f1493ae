// Plays PCM16 mono blocks one after the other, and silence while there is none. The message null discards what waits.
class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this._blocks = [];
    this._position = 0;
    this.port.onmessage = ({ data }) => {
      if (data === null) {
        this._blocks = [];
        this._position = 0;
      } else {
        this._blocks.push(data);
      }
    };
  }

  process(_inputs, [[channel]]) {
    for (let index = 0; index < channel.length && this._blocks.length > 0; index++) {
      channel[index] = this._blocks[0][this._position++] / 32768;
      if (this._position === this._blocks[0].length) {
        this._blocks.shift();
        this._position = 0;
      }
    }
    return true;
  }
}

registerProcessor("playback", Playback);
