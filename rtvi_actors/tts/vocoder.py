"""A VITS model whose audio comes piece by piece.

VITS is: text encoder -> prior of every frame -> flow -> vocoder. The encoder needs the whole text; flow and vocoder are
convolutions, so a frame depends on a bounded number of neighbours (their *reach*). Both are run on segments with that many frames
around them, of which only the middle is kept: joined, that is what one run over everything gives, but the first audio is there
after the encoder and one small piece. The neighbours are dropped layer by layer, as soon as no later layer needs them: of a
vocoder most of the work is in its last layers, which need hardly any.

Nothing here is asynchronous: one thread owns the model and steps through the iterators of many clauses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.nn.utils import parametrize

FIRST_FRAMES = 16
"""Frames of the first piece (186 ms at 22,050 Hz): small, so that it is there early."""

_MAX_FLOW_FRAMES = 256
_SLOPE = 0.1
"""Of the leaky rectifiers in front of HiFi-GAN's upsampling layers."""

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prior:
    """What the text encoder makes of a clause."""

    frames: Any
    """A sample of the prior of every frame, a tensor of shape (1, channels, frames)."""
    token_frames: list[int]
    """How many of the frames each token lasts."""


class _PassThrough(torch.nn.Module):
    """Takes the place of a part that is run elsewhere: gives its first argument back."""

    def forward(self, x: Any, *_args: Any, **_kwargs: Any) -> Any:
        return x


class StreamingVits:
    """Wraps a loaded Coqui ``Vits`` for inference; the model is changed and must not be used otherwise.

    Args:
        model: ``TTS.tts.models.vits.Vits`` in eval mode, one speaker, on its device.
    """

    def __init__(self, model: Any) -> None:
        fold_weight_norm(model)
        self._model = model
        self._length_scale = model.length_scale
        self._flow = SegmentedFlow(model.flow)
        self._decoder = SegmentedDecoder(model.waveform_decoder)
        self._weights_bytes = sum(_bytes(part) for part in (model.text_encoder, model.duration_predictor, model.flow))
        self._weights_bytes += _bytes(model.waveform_decoder)
        model.flow = _PassThrough()
        model.waveform_decoder = _PassThrough()
        model.posterior_encoder = None  # a third of the weights, used by training only

    @property
    def memory_bytes(self) -> int:
        """What the weights take."""
        return self._weights_bytes

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return self._decoder.hop

    def prior(self, token_ids: list[int], speed: float = 1.0) -> Prior:
        """Encode a text. ``speed`` 2.0 speaks twice as fast."""
        self._model.length_scale = self._length_scale / speed
        with torch.inference_mode():
            tokens = torch.tensor([token_ids], device=self._model.device)
            outputs = self._model.inference(tokens)
            return Prior(outputs["z_p"], outputs["durations"].flatten().long().tolist())

    def whole(self, prior: Any) -> Samples:
        """All audio at once, by Coqui's own methods: the reference that :meth:`pieces` is compared with."""
        with torch.inference_mode():
            return _samples(self._decoder.whole(self._flow.whole(prior)))

    def pieces(self, prior: Any, frames: int) -> Iterator[Samples]:
        """The audio of a prior: float32 of shape (n,), first :data:`FIRST_FRAMES` frames, then more each time, up to ``frames``.

        The first piece is played before anything is in reserve, so the second one must not take long either.

        Each step computes one piece; closing the iterator computes nothing more.
        """
        total, reach = prior.shape[2], self._decoder.reach
        latent = prior[:, :, :0]
        flow_frames = FIRST_FRAMES + reach
        size = FIRST_FRAMES
        start, end = 0, min(size, total)
        while start < total:
            if total - end < FIRST_FRAMES:
                end = total  # no crumb at the end
            with torch.inference_mode():
                while latent.shape[2] < min(end + reach, total):
                    known = latent.shape[2]
                    latent = torch.cat([latent, self._flow.run(prior, known, min(known + flow_frames, total))], dim=2)
                    flow_frames = min(2 * flow_frames, _MAX_FLOW_FRAMES)
                piece = _samples(self._decoder.run(latent, start, end))
            yield piece
            start, end = end, min(end + size, total)
            size = min(2 * size, max(frames, FIRST_FRAMES))


class SegmentedFlow:
    """Coqui's ``ResidualCouplingBlocks`` in the direction of speaking."""

    def __init__(self, flow: Any) -> None:
        self._flow = flow
        self._needed = [0]
        """Before the last block, before the one before it, ...: frames to each side that are still needed."""
        for block in flow.flows:
            self._needed.append(self._needed[-1] + _side_of_all(block))

    def whole(self, prior: Any) -> Any:
        """All frames."""
        return self._flow(prior, torch.ones_like(prior[:, :1]), g=None, reverse=True)

    def run(self, prior: Any, start: int, end: int) -> Any:
        """Frames [start, end) of the latent, of shape (1, channels, end - start)."""
        segment = _Segment.of(prior, start, end, self._needed[-1])
        for index in reversed(range(len(self._flow.flows))):
            block = self._flow.flows[index]
            segment.tensor = torch.flip(segment.tensor, [1])
            segment.tensor = block(segment.tensor, torch.ones_like(segment.tensor[:, :1]), g=None, reverse=True)
            segment.keep(self._needed[index])
        return segment.tensor


class SegmentedDecoder:
    """Coqui's ``HifiganGenerator`` (one speaker)."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._strides = [int(up.stride[0]) for up in decoder.ups]
        self.hop = math.prod(self._strides)
        """Samples per frame."""
        self._blocks = [
            decoder.resblocks[level * decoder.num_kernels : (level + 1) * decoder.num_kernels] for level in range(len(decoder.ups))
        ]
        self._needed = [_side(decoder.conv_post)]
        """After the last level, after the one before it, ...: samples of that level to each side that are still needed."""
        for up, blocks in zip(reversed(decoder.ups), reversed(self._blocks), strict=True):
            side = self._needed[0] + max(_side_of_all(block) for block in blocks)
            # A sample of a transposed convolution comes from half its kernel to each side, in samples of the level before.
            self._needed.insert(0, math.ceil((side + up.kernel_size[0] / 2) / up.stride[0]))
        self.reach = self._needed[0] + _side(decoder.conv_pre)
        """Frames to each side that a frame of audio depends on."""

    def whole(self, latent: Any) -> Any:
        """All audio."""
        return self._decoder(latent, g=None)

    def run(self, latent: Any, start: int, end: int) -> Any:
        """The audio of the frames [start, end), of shape (1, 1, samples)."""
        decoder = self._decoder
        segment = _Segment.of(latent, start, end, self.reach)
        segment.tensor = decoder.conv_pre(segment.tensor)
        segment.keep(self._needed[0])
        for up, blocks, stride, needed in zip(decoder.ups, self._blocks, self._strides, self._needed[1:], strict=True):
            segment.upsample(up(functional.leaky_relu(segment.tensor, _SLOPE)), stride)
            total = blocks[0](segment.tensor)
            for block in blocks[1:]:
                total += block(segment.tensor)
            segment.tensor = total / len(blocks)
            segment.keep(needed)
        segment.tensor = decoder.conv_post(functional.leaky_relu(segment.tensor))
        segment.keep(0)
        return torch.tanh(segment.tensor)


@dataclass(slots=True)
class _Segment:
    """A stretch of a sequence with neighbours: ``left`` and ``right`` of the tensor's last dimension are not part of it.

    Fewer neighbours than are needed means that the sequence begins or ends there, where layers see zeros by themselves.
    """

    tensor: Any
    left: int
    right: int

    @classmethod
    def of(cls, sequence: Any, start: int, end: int, neighbours: int) -> _Segment:
        left, right = min(start, neighbours), min(sequence.shape[2] - end, neighbours)
        return cls(sequence[:, :, start - left : end + right], left, right)

    def upsample(self, tensor: Any, stride: int) -> None:
        """The segment is now ``tensor``, with ``stride`` times as many samples."""
        self.tensor, self.left, self.right = tensor, self.left * stride, self.right * stride

    def keep(self, neighbours: int) -> None:
        """Drop neighbours that are not needed any more."""
        left, right = min(self.left, neighbours), min(self.right, neighbours)
        length = self.tensor.shape[2]
        self.tensor = self.tensor[:, :, self.left - left : length - (self.right - right)]
        self.left, self.right = left, right


def fold_weight_norm(model: Any) -> None:
    """Replace normalised weights by plain ones: a tenth less work, the same result."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")


def _side_of_all(module: Any) -> int:
    """Samples to each side that a sample of the module's result depends on: its convolutions come one after the other."""
    return sum(_side(layer) for layer in module.modules() if isinstance(layer, torch.nn.Conv1d))


def _side(convolution: Any) -> int:
    return int((convolution.kernel_size[0] - 1) // 2 * convolution.dilation[0])


def _samples(audio: Any) -> Samples:
    samples: Samples = audio[0, 0].float().cpu().numpy()
    return samples


def _bytes(module: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
