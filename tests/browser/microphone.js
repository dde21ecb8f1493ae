// In place of the microphone: what the test says, when it says it. A faint hum in between, as from a real one.
window.microphone = (() => {
  let context = null;
  let destination = null;

  navigator.mediaDevices.getUserMedia = async () => {
    context = new AudioContext({ sampleRate: 48000 });
    destination = context.createMediaStreamDestination();
    const hum = context.createConstantSource();
    const quiet = context.createGain();
    quiet.gain.value = 1e-4;
    hum.connect(quiet).connect(destination);
    hum.start();
    await context.resume();
    return destination.stream;
  };

  // `wav`: a file in base64. Returns at once.
  async function say(wav) {
    const bytes = Uint8Array.from(atob(wav), (character) => character.charCodeAt(0));
    const source = context.createBufferSource();
    source.buffer = await context.decodeAudioData(bytes.buffer);
    source.connect(destination);
    source.start();
  }

  return { say };
})();
