// Meters what reaches the loudspeaker: everything that a page connects to an output is connected to a meter as well.
window.loudspeaker = (() => {
  const meters = new Map();
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target instanceof AudioDestinationNode) {
      if (!meters.has(this.context)) meters.set(this.context, this.context.createAnalyser());
      connect.call(this, meters.get(this.context));
    }
    return connect.call(this, target, ...rest);
  };

  // Root mean square of the last moment, 0..1.
  function level() {
    let loudest = 0;
    for (const meter of meters.values()) {
      const samples = new Float32Array(meter.fftSize);
      meter.getFloatTimeDomainData(samples);
      loudest = Math.max(loudest, Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length));
    }
    return loudest;
  }

  return { level };
})();
