"""Frames to bytes and back: one msgpack array per frame, nothing around it.

``[kind, session, epoch, turn, attempt, seq, sent_ns, ...fields]``, the fields in the order of the dataclass. Both directions
check every value against the dataclass: a sender must not be able to emit what its peer would close the link for.

What a peer can make this process hold is bounded: a frame has at most ``MAX_FRAME_BYTES`` on the wire, containers at most
``MAX_ITEMS`` items each, nested values (settings, marks, routes) at most ``MAX_DEPTH`` levels.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import typing
from collections.abc import Callable
from typing import Any

import msgpack

from rtvi_actors.errors import FrameDecodeError
from rtvi_actors.frames.types import KINDS, Frame

MAX_FRAME_BYTES = 2 * 1024 * 1024
"""Room for 30 s of 16 kHz PCM16 (960 kB) in one request to an engine, twice over."""
MAX_ITEMS = 4_096
"""Of one list or dict inside a frame."""
MAX_DEPTH = 32
"""Levels of nesting inside one field."""
MAX_INT = 2**63 - 1

_BUFFER_BYTES = 2 * MAX_FRAME_BYTES
_SLICE_BYTES = _BUFFER_BYTES - MAX_FRAME_BYTES
_HEADER = ("session", "epoch", "turn", "attempt", "seq", "sent_ns")
_SENT_NS = _HEADER.index("sent_ns")
_FIRST_FIELD = 1 + len(_HEADER)

Check = Callable[[Any], Any]
"""Takes a nested value, gives it back with lists as lists; raises ValueError."""


def encode(frame: Frame, sent_ns: int | None = None) -> bytes:
    """The frame's bytes, with ``sent_ns`` in place of its own when given. Not for use by two threads at a time.

    Raises:
        ValueError: a value has another type than its field, is out of range or too large; the text names the field.
    """
    return _encoder.encode(frame, sent_ns)


class FrameEncoder:
    """Encodes frames with a packer of its own: one for each thread."""

    def __init__(self) -> None:
        self._pack: Callable[[Any], bytes] = msgpack.Packer().pack

    def encode(self, frame: Frame, sent_ns: int | None = None) -> bytes:
        """See :func:`encode`."""
        layout = _LAYOUTS_BY_CLASS[type(frame)]
        values: tuple[Any, ...] = layout.read(frame)
        if sent_ns is not None:
            values = (*values[:_SENT_NS], sent_ns, *values[_SENT_NS + 1 :])
        if tuple(map(type, values)) != layout.types or not layout.unsigned_in_range(values):
            values = layout.coerce(values)
        for place, _, check in layout.nested:
            try:
                check(values[place])
            except ValueError as error:
                raise ValueError(f"{layout.cls.__name__}.{layout.names[place]}: {error}") from None
        data = self._pack((layout.kind, *values))
        if len(data) > MAX_FRAME_BYTES:
            raise ValueError(f"{layout.cls.__name__} has {len(data)} bytes; a frame may have {MAX_FRAME_BYTES}")
        return data


class FrameDecoder:
    """Makes frames of a stream of bytes that comes in pieces of any size.

    Attributes:
        unknown_frames: frames of a kind that is not in the table, skipped.
    """

    def __init__(self) -> None:
        self.unknown_frames = 0
        self._dead = False
        self._fed_bytes = 0
        self._frame_start = 0
        self._maps = 0
        self._unpacker = msgpack.Unpacker(
            use_list=False,
            raw=False,
            strict_map_key=True,
            object_hook=self._count_map,
            ext_hook=_refuse_extension,
            max_buffer_size=_BUFFER_BYTES,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_bin_len=MAX_FRAME_BYTES,
            max_str_len=MAX_FRAME_BYTES,
            max_ext_len=0,
        )

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """All frames that ``data`` completes. ``data`` is copied.

        Raises:
            FrameDecodeError: the stream is not one of frames. No later call gives frames; those that this call completed
                before the fault are lost.
        """
        if self._dead:
            raise FrameDecodeError("the stream was malformed before")
        frames: list[Frame] = []
        try:
            for start in range(0, len(data), _SLICE_BYTES):
                self._feed_slice(data[start : start + _SLICE_BYTES], frames)
        except FrameDecodeError:
            self._dead = True
            raise
        except (ValueError, msgpack.UnpackException) as error:
            self._dead = True
            raise FrameDecodeError(f"malformed msgpack: {error or type(error).__name__}") from None
        return frames

    def _feed_slice(self, data: bytes | memoryview, frames: list[Frame]) -> None:
        unpacker = self._unpacker
        unpacker.feed(data)
        self._fed_bytes += len(data)
        for values in unpacker:
            end = unpacker.tell()
            if end - self._frame_start > MAX_FRAME_BYTES:
                raise FrameDecodeError(f"a frame of {end - self._frame_start} bytes; {MAX_FRAME_BYTES} are allowed")
            self._frame_start = end
            self._maps = 0
            layout = _layout_of(values)
            if layout is None:
                self.unknown_frames += 1
            else:
                frames.append(_build(layout, values))
        # The unpacker's own limit is on bytes it has not looked at yet; a container that never ends would grow for ever.
        if self._fed_bytes - self._frame_start > MAX_FRAME_BYTES:
            raise FrameDecodeError(f"a frame of more than {MAX_FRAME_BYTES} bytes")

    def _count_map(self, value: dict[str, Any]) -> dict[str, Any]:
        # One byte on the wire makes an empty dict of 64 in memory.
        self._maps += 1
        if self._maps > MAX_ITEMS:
            raise FrameDecodeError(f"a frame with more than {MAX_ITEMS} maps")
        return value


@dataclasses.dataclass(frozen=True, slots=True)
class _Layout:
    """What is known about a frame class. Places count without the leading kind."""

    kind: int
    cls: type[Frame]
    names: tuple[str, ...]
    read: operator.attrgetter[tuple[Any, ...]]
    types: tuple[type, ...]
    wire_types: tuple[type, ...]
    unsigned: operator.itemgetter[Any]
    nested: tuple[tuple[int, str, Check], ...]

    def unsigned_in_range(self, values: tuple[Any, ...]) -> bool:
        """Whether all integers of ``values`` are from 0 to MAX_INT: their bits together are, exactly when each is."""
        together: int = functools.reduce(operator.or_, self.unsigned(values))
        return 0 <= together <= MAX_INT

    def coerce(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """``values`` with integers made floats where a float belongs; the same for any other fault is a ValueError."""
        good = []
        for name, expected, value in zip(self.names, self.types, values, strict=True):
            is_number = type(value) is int
            if type(value) is not expected and not (is_number and expected is float):
                raise ValueError(f"{self.cls.__name__}.{name} is {type(value).__name__}; it must be {expected.__name__}")
            if is_number and expected is int and not 0 <= value <= MAX_INT:
                raise ValueError(f"{self.cls.__name__}.{name} = {value} is not from 0 to {MAX_INT}")
            good.append(float(value) if expected is float else value)
        return tuple(good)


def _layout_of(values: Any) -> _Layout | None:
    """The layout that ``values``, one decoded object, names; None for an unknown kind."""
    if type(values) is not tuple or not values:
        raise FrameDecodeError("a frame is an array with a kind")
    kind = values[0]
    if type(kind) is not int or not 0 <= kind <= MAX_INT:
        raise FrameDecodeError("the kind of a frame is an unsigned integer")
    return _LAYOUTS_BY_KIND.get(kind)


def _build(layout: _Layout, values: tuple[Any, ...]) -> Frame:
    rest = values[1:]
    if tuple(map(type, rest)) != layout.wire_types:
        raise FrameDecodeError(f"{layout.cls.__name__}: {_type_fault(layout, rest)}")
    if not layout.unsigned_in_range(rest):
        raise FrameDecodeError(f"{layout.cls.__name__}: an integer is not from 0 to {MAX_INT}")
    fields = values[_FIRST_FIELD:]
    if layout.nested:
        checked = list(rest)
        for place, name, check in layout.nested:
            try:
                checked[place] = check(rest[place])
            except ValueError as error:
                raise FrameDecodeError(f"{layout.cls.__name__}.{name}: {error}") from None
        fields = tuple(checked[len(_HEADER) :])
    _, session, epoch, turn, attempt, seq, sent_ns = values[:_FIRST_FIELD]
    return layout.cls(*fields, session=session, epoch=epoch, turn=turn, attempt=attempt, seq=seq, sent_ns=sent_ns)


def _type_fault(layout: _Layout, rest: tuple[Any, ...]) -> str:
    if len(rest) != len(layout.names):
        return f"{len(rest)} values, expected {len(layout.names)}"
    found = zip(layout.names, rest, layout.wire_types, strict=True)
    return next(f"{name} is {type(value).__name__}" for name, value, expected in found if type(value) is not expected)


def _refuse_extension(code: int, _: bytes) -> None:
    raise FrameDecodeError(f"msgpack extension {code}")


# ------------------------------------------------------------------------------------------------------ nested values


def _check_for(hint: Any, depth: int = 1) -> Check:
    """The check of ``hint``: a scalar, Any, ``list[...]`` or ``dict[str, ...]`` of such."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return functools.partial(_plain, depth=depth)
    if origin is list:
        item = _check_for(arguments[0], depth + 1)
        return functools.partial(_list_of, item=item)
    if origin is dict and arguments[0] is str:
        item = _check_for(arguments[1], depth + 1)
        return functools.partial(_dict_of, item=item)
    if hint is str:
        return _text
    raise TypeError(f"frames cannot carry {hint}")


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in (str, bool, float, bytes, type(None)):
        return value
    if kind is int:
        if not -MAX_INT - 1 <= value <= MAX_INT:
            raise ValueError("an integer of more than 64 bits")
        return value
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if kind in (list, tuple):
        return _list_of(value, functools.partial(_plain, depth=depth + 1))
    if kind is dict:
        return _dict_of(value, functools.partial(_plain, depth=depth + 1))
    raise ValueError(f"{kind.__name__} cannot travel")


def _list_of(value: Any, item: Check) -> list[Any]:
    if type(value) not in (list, tuple):
        raise ValueError(f"{type(value).__name__} where a list belongs")
    if len(value) > MAX_ITEMS:
        raise ValueError(f"{len(value)} items; {MAX_ITEMS} are allowed")
    return [item(each) for each in value]


def _dict_of(value: Any, item: Check) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError(f"{type(value).__name__} where a dict belongs")
    if len(value) > MAX_ITEMS:
        raise ValueError(f"{len(value)} items; {MAX_ITEMS} are allowed")
    return {_text(key): item(each) for key, each in value.items()}


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{type(value).__name__} where text belongs")
    return value


# ------------------------------------------------------------------------------------------------------------ layouts

_SCALARS = (str, int, bool, bytes, float)


def _layout(kind: int, cls: type[Frame]) -> _Layout:
    names = (*_HEADER, *(field.name for field in dataclasses.fields(cls) if field.name not in _HEADER))
    hints = typing.get_type_hints(cls)
    types = tuple(typing.get_origin(hints[name]) or hints[name] for name in names)
    return _Layout(
        kind=kind,
        cls=cls,
        names=names,
        read=operator.attrgetter(*names),
        types=types,
        wire_types=tuple(tuple if expected is list else expected for expected in types),
        unsigned=operator.itemgetter(*(place for place, expected in enumerate(types) if expected is int)),
        nested=tuple((place, name, _check_for(hints[name])) for place, name in enumerate(names) if types[place] not in _SCALARS),
    )


_LAYOUTS_BY_KIND = {kind: _layout(kind, cls) for kind, cls in KINDS.items()}
_LAYOUTS_BY_CLASS = {layout.cls: layout for layout in _LAYOUTS_BY_KIND.values()}
_encoder = FrameEncoder()
