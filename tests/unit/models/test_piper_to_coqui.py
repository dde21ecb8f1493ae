from __future__ import annotations

import numpy as np
import pytest

from rtvi_actors.models.piper_to_coqui import ConversionError, PiperVoice, coqui_name, decoder_shape, vocabulary

pytestmark = pytest.mark.unit


def test_vocabulary_is_in_coquis_order() -> None:
    settings = {"phoneme_id_map": {"_": [0], "^": [1], "$": [2], " ": [3], "a": [14], "ab": [99], "\u02c8": [120]}}
    characters, rows = vocabulary(settings)
    assert characters == " a\u02c8"
    assert rows == [0, 2, 1, 0, 3, 14, 120]


@pytest.mark.parametrize(
    ("piper", "coqui"),
    [
        ("enc_p.emb.weight", "text_encoder.emb.weight"),
        ("dec.ups.0.bias", "waveform_decoder.ups.0.bias"),
        ("flow.flows.0.pre.weight", "flow.flows.0.pre.weight"),
        ("flow.flows.6.pre.weight", "flow.flows.3.pre.weight"),
        ("dp.flows.0.m", "duration_predictor.flows.0.translation"),
        ("dp.flows.0.logs", "duration_predictor.flows.0.log_scale"),
        ("dp.flows.7.proj.bias", "duration_predictor.flows.4.proj.bias"),
        ("dp.convs.norms_1.0.gamma", "duration_predictor.convs.norms_1.0.gamma"),
    ],
)
def test_names(piper: str, coqui: str) -> None:
    assert coqui_name(piper) == coqui


def test_shape_of_the_vocoder() -> None:
    voice = PiperVoice({})
    voice.weights = {
        "dec.conv_pre.weight": np.zeros((256, 192, 7)),
        "dec.ups.0.weight": np.zeros((256, 128, 16)),
        "dec.ups.1.weight": np.zeros((128, 64, 8)),
    }
    voice.strides = {"dec.ups.0": 8, "dec.ups.1": 4}
    for block in range(4):
        for number in range(2):
            kernel = (3, 5)[block % 2]
            voice.weights[f"dec.resblocks.{block}.convs.{number}.weight"] = np.zeros((8, 8, kernel))
            voice.dilations[f"dec.resblocks.{block}.convs.{number}"] = number + block % 2 + 1
    assert decoder_shape(voice) == {
        "resblock_type_decoder": "2",
        "resblock_kernel_sizes_decoder": [3, 5],
        "resblock_dilation_sizes_decoder": [[1, 2], [2, 3]],
        "upsample_rates_decoder": [8, 4],
        "upsample_kernel_sizes_decoder": [16, 8],
        "upsample_initial_channel_decoder": 256,
    }


def test_other_vocoders_are_refused() -> None:
    with pytest.raises(ConversionError, match="low and medium"):
        decoder_shape(PiperVoice({}))
