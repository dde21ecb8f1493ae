"""What a test may ask to be told beside the conversation: raw voice activity, and each answer as the model gave it. Pure."""

from __future__ import annotations

from rtvi_actors.frames.types import Frame, SpeechResumed, TurnMayEnd, TurnStarted
from rtvi_actors.rtvi.events import AnswerEnded, AnswerStarted, AnswerText, Event
from rtvi_actors.rtvi.messages import Message


class Reports:
    """The extra messages of one session. Both switches are off; ``evaluation`` turns them on.

    Attributes:
        voice_activity: tell vad-user-started-speaking and -stopped-speaking, before any judgement about turns.
        markers: tell bot-llm-marker at the end of each answer. Answers have no markers here: it says what the model wrote.
    """

    def __init__(self) -> None:
        self.voice_activity = False
        self.markers = False
        self._answer = ""

    def of_frame(self, frame: Frame) -> list[Message]:
        """What to tell of a stage's frame, before anything else is made of it."""
        if not self.voice_activity:
            return []
        match frame:
            case TurnStarted(source="speech") | SpeechResumed():
                return [Message("vad-user-started-speaking")]
            case TurnMayEnd():
                return [Message("vad-user-stopped-speaking")]
        return []

    def of_event(self, event: Event) -> list[Message]:
        """What to tell behind the messages of ``event``."""
        if not self.markers:
            return []
        match event:
            case AnswerStarted():
                self._answer = ""
            case AnswerText(text=text):
                self._answer += text
            case AnswerEnded():
                return [Message("bot-llm-marker", {"text": "", "raw": self._answer, "markers": []})]
        return []
