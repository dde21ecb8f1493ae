"""A Piper voice (VITS as ONNX) as a stock Coqui VITS checkpoint.

Piper and Coqui train the same network, and Piper's ONNX export keeps most parameter names, so a voice converts without loss:

* biases, embeddings and the small layers lie in the graph under their own names;
* the weights of normalised convolutions lie under generated names, and are found through the bias of the same node;
* weight norm is folded in the export; Coqui wants it split, into magnitude and direction;
* of the first flow of the duration predictor only ``exp(-logs)`` is left;
* shapes that are no weight (strides, dilations) are attributes of the graph's nodes.

What serves training only (the posterior encoder, half of the duration predictor) is not in the export and is zero in the
checkpoint: don't fine-tune it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtvi_actors.models.torch_setup import ensure_torchaudio

PHONEMIZER = "espeak_library"
"""Name under which rtvi_actors.tts.phonemes registers its phonemizer with Coqui; written into the checkpoint's config."""

CHECKPOINT_FILE = "model.pth"
CONFIG_FILE = "config.json"

Weights = dict[str, NDArray[Any]]

# Piper's prefix -> Coqui's. The first that fits counts. Piper numbers the flips between flows, Coqui does not.
_PREFIXES = (
    ("enc_p.", "text_encoder."),
    ("dec.", "waveform_decoder."),
    ("flow.flows.2.", "flow.flows.1."),
    ("flow.flows.4.", "flow.flows.2."),
    ("flow.flows.6.", "flow.flows.3."),
    ("dp.flows.0.m", "duration_predictor.flows.0.translation"),
    ("dp.flows.0.logs", "duration_predictor.flows.0.log_scale"),
    ("dp.flows.3", "duration_predictor.flows.2"),
    ("dp.flows.5", "duration_predictor.flows.3"),
    ("dp.flows.7", "duration_predictor.flows.4"),
    ("dp.", "duration_predictor."),
)
_NORM_MAGNITUDE = "parametrizations.weight.original0"
_NORM_DIRECTION = "parametrizations.weight.original1"
# What only training uses: not in an export. The duration predictor's flow 1 is skipped in inference.
_TRAINING_ONLY = ("posterior_encoder.", "duration_predictor.post_", "duration_predictor.flows.1.")


class ConversionError(ValueError):
    """The file is not a voice that this converter understands; the text says what is different."""


@dataclass(slots=True)
class PiperVoice:
    """What the ONNX file and its JSON say. ``weights``: by Piper's parameter names, norm folded."""

    settings: dict[str, Any]
    weights: Weights = field(default_factory=dict)
    dilations: dict[str, int] = field(default_factory=dict)
    strides: dict[str, int] = field(default_factory=dict)


def convert(onnx_path: Path, settings_path: Path, folder: Path) -> None:
    """Write ``model.pth`` and ``config.json`` for the voice into ``folder``. Takes about 5 s.

    Raises:
        ConversionError: a parameter is left over, is missing, or has another shape.
    """
    ensure_torchaudio()
    import torch
    from TTS.tts.models.vits import Vits

    voice = read_voice(onnx_path, settings_path)
    characters, rows = vocabulary(voice.settings)
    voice.weights["enc_p.emb.weight"] = voice.weights["enc_p.emb.weight"][rows]
    config = _coqui_config(voice, characters)
    state = fill_state(Vits(config).state_dict(), voice.weights)
    # Only now: building the model with phonemes would look for the phonemizer, which is the speaker's business.
    config.use_phonemes = True
    config.phonemizer = PHONEMIZER
    config.save_json(str(folder / CONFIG_FILE))
    torch.save({"model": state, "config": config.to_dict(), "step": 0}, folder / CHECKPOINT_FILE)


def read_voice(onnx_path: Path, settings_path: Path) -> PiperVoice:
    """Collect the parameters of the graph under Piper's names, with the strides and dilations of its convolutions."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(onnx_path)).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    voice = PiperVoice(json.loads(settings_path.read_text(encoding="utf-8")))
    for name, tensor in tensors.items():
        if "." in name and not name.startswith(("/", "onnx::")):
            voice.weights[name] = tensor
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 2 and node.input[2].endswith(".bias"):
            _read_convolution(node, tensors, voice)
        elif node.op_type == "Gather" and node.name.startswith("/enc_p/emb"):
            voice.weights["enc_p.emb.weight"] = tensors[node.input[0]]
    voice.weights["dp.flows.0.logs"] = -np.log(tensors["/dp/flows.0/Exp_output_0"])
    return voice


def _read_convolution(node: Any, tensors: Weights, voice: PiperVoice) -> None:
    layer = node.input[2].removesuffix(".bias")
    voice.weights.setdefault(f"{layer}.weight", tensors[node.input[1]])
    for attribute in node.attribute:
        if attribute.name == "dilations":
            voice.dilations[layer] = attribute.ints[0]
        elif attribute.name == "strides":
            voice.strides[layer] = attribute.ints[0]


def vocabulary(settings: dict[str, Any]) -> tuple[str, list[int]]:
    """The characters in Coqui's order, and for each of Coqui's symbols the row of Piper's embedding.

    Coqui puts padding, end, begin and blank before the characters; Piper's blank is its padding.
    """
    ids = settings["phoneme_id_map"]
    characters = [symbol for symbol in ids if len(symbol) == 1 and symbol not in "_^$"]
    symbols = ["_", "$", "^", "_", *characters]
    return "".join(characters), [ids[symbol][0] for symbol in symbols]


def decoder_shape(voice: PiperVoice) -> dict[str, Any]:
    """Coqui's settings of the vocoder, read off the weights.

    Raises:
        ConversionError: the vocoder has residual blocks of another kind (Piper's "high" voices).
    """
    weights = voice.weights
    if "dec.resblocks.0.convs.0.weight" not in weights:
        raise ConversionError("only Piper's low and medium voices can be converted (residual blocks of type 2)")
    ups = sum(1 for name in weights if name.startswith("dec.ups.") and name.endswith(".weight"))
    blocks = sum(1 for name in weights if name.startswith("dec.resblocks.") and name.endswith(".convs.0.weight"))
    convolutions = sum(1 for name in weights if name.startswith("dec.resblocks.0.convs.") and name.endswith(".weight"))
    kernels = range(blocks // ups)
    return {
        "resblock_type_decoder": "2",
        "resblock_kernel_sizes_decoder": [weights[f"dec.resblocks.{i}.convs.0.weight"].shape[2] for i in kernels],
        "resblock_dilation_sizes_decoder": [
            [voice.dilations[f"dec.resblocks.{i}.convs.{j}"] for j in range(convolutions)] for i in kernels
        ],
        "upsample_rates_decoder": [voice.strides[f"dec.ups.{i}"] for i in range(ups)],
        "upsample_kernel_sizes_decoder": [weights[f"dec.ups.{i}.weight"].shape[2] for i in range(ups)],
        "upsample_initial_channel_decoder": weights["dec.conv_pre.weight"].shape[0],
    }


def _coqui_config(voice: PiperVoice, characters: str) -> Any:
    from TTS.tts.configs.shared_configs import CharactersConfig
    from TTS.tts.configs.vits_config import VitsConfig
    from TTS.tts.models.vits import VitsArgs

    inference = voice.settings["inference"]
    args = VitsArgs(
        num_chars=len(characters) + 4,
        init_discriminator=False,
        inference_noise_scale=inference["noise_scale"],
        inference_noise_scale_dp=inference["noise_w"],
        length_scale=inference["length_scale"],
        hidden_channels_ffn_text_encoder=voice.weights["enc_p.encoder.ffn_layers.0.conv_1.weight"].shape[0],
        **decoder_shape(voice),
    )
    config = VitsConfig(
        model_args=args,
        use_phonemes=False,
        phoneme_language=voice.settings["espeak"]["voice"],
        text_cleaner="phoneme_cleaners",
        add_blank=True,
        enable_eos_bos_chars=True,
        compute_input_seq_cache=False,
        test_sentences=[],
        characters=CharactersConfig(
            characters_class="TTS.tts.utils.text.characters.IPAPhonemes",
            pad="_",
            eos="$",
            bos="^",
            blank="<BLNK>",
            characters=characters,
            punctuations="",
            phonemes=characters,
            is_unique=False,
            is_sorted=False,
        ),
    )
    config.audio.sample_rate = voice.settings["audio"]["sample_rate"]
    return config


def coqui_name(name: str) -> str:
    """Coqui's name of Piper's parameter ``name`` (with folded weight norm)."""
    for piper, coqui in _PREFIXES:
        if name.startswith(piper):
            return coqui + name.removeprefix(piper)
    return name


def fill_state(state: dict[str, Any], weights: Weights) -> dict[str, Any]:
    """A copy of the model's ``state`` with every parameter that speaking needs taken from ``weights``.

    Raises:
        ConversionError: a parameter is left over, is missing, or has another shape.
    """
    import torch

    filled: dict[str, Any] = {}
    for name, array in weights.items():
        target = coqui_name(name)
        tensor = torch.from_numpy(np.array(array)).float()
        module = target.removesuffix("weight")
        if target not in state and module + _NORM_DIRECTION in state:
            magnitude = state[module + _NORM_MAGNITUDE]
            filled[module + _NORM_MAGNITUDE] = tensor.flatten(1).norm(dim=1).view(magnitude.shape)
            filled[module + _NORM_DIRECTION] = tensor
        else:
            filled[target] = tensor
    for name, tensor in state.items():
        if name.startswith(_TRAINING_ONLY):
            filled.setdefault(name, torch.zeros_like(tensor))
    _check_state(state, filled)
    return {name: filled[name].contiguous() for name in state}


def _check_state(state: dict[str, Any], filled: dict[str, Any]) -> None:
    missing, left_over = sorted(state.keys() - filled.keys()), sorted(filled.keys() - state.keys())
    if missing or left_over:
        raise ConversionError(f"parameters do not fit: missing {missing[:5]}, left over {left_over[:5]}")
    for name, tensor in state.items():
        if tensor.shape != filled[name].shape:
            raise ConversionError(f"{name} has the shape {tuple(filled[name].shape)} instead of {tuple(tensor.shape)}")
