from google.protobuf.message import Message

class AudioRawFrame(Message):
    audio: bytes
    sample_rate: int
    num_channels: int
    def __init__(self, *, name: str, audio: bytes, sample_rate: int, num_channels: int) -> None: ...

class MessageFrame(Message):
    data: str
    def __init__(self, *, data: str) -> None: ...

class Frame(Message):
    audio: AudioRawFrame
    message: MessageFrame
    def __init__(self, *, audio: AudioRawFrame = ..., message: MessageFrame = ...) -> None: ...
    def WhichOneof(self, oneof_group: str | bytes) -> str | None: ...
