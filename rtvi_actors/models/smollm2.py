"""SmolLM2: from the GGUF file of its package to a transformers folder, from there to CTranslate2; and to OpenVINO.

The weights of the GGUF file are quantized to 4 bits; they are dequantized once and kept as bfloat16 (transformers, for a GPU)
and with 8 bits (OpenVINO and CTranslate2, on a CPU). All folders carry the tokenizer with its chat template.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtvi_actors.models.torch_setup import ensure_torchaudio, work_offline

_BOS_TOKEN_ID = 1
_EOS_TOKEN_ID = 2
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def gguf_to_transformers(gguf: Path, folder: Path, step: Callable[[float, str], None]) -> None:
    """Write a transformers folder (bfloat16 safetensors, config, tokenizer) for the GGUF file ``gguf``. Takes up to 30 s.

    ``step`` is told how much is done (0 to 1) and what comes now.
    """
    ensure_torchaudio()
    work_offline()
    step(0.0, "loading transformers")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    step(0.2, "reading the tokenizer from GGUF")
    tokenizer = AutoTokenizer.from_pretrained(**where)
    step(0.5, "dequantizing")
    dequantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    model = _plain_copy(dequantized)
    step(0.9, "writing bfloat16 weights")
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def transformers_to_ctranslate2(source: Path, folder: Path) -> None:
    """Write a CTranslate2 folder (int8) with the tokenizer for the transformers folder ``source``. Takes about 10 s."""
    ensure_torchaudio()
    work_offline()
    from ctranslate2.converters import TransformersConverter

    # The converter insists on a folder of its own making.
    TransformersConverter(str(source)).convert(str(folder), quantization="int8_float32", force=True)
    _copy_tokenizer(source, folder)


def gguf_to_openvino(gguf: Path, source: Path, folder: Path) -> None:
    """Write an OpenVINO folder for the GGUF file ``gguf``, with the tokenizer of the transformers folder ``source``. Takes 10 s.

    OpenVINO 2026.4 reads GGUF, but takes the weights of type Q4_1 for others than they are (it rounds their offsets): the answers
    were another, worse model's. Those of type Q8_0 have no offsets, and give the answers that transformers gives.
    """
    import openvino_genai

    # It saves beside what it read, and only as it loads.
    symmetric = folder / "Q8_0.gguf"
    _requantize(gguf, symmetric)
    openvino_genai.LLMPipeline(str(symmetric), "CPU", enable_save_ov_model=True)
    symmetric.unlink()
    _copy_tokenizer(source, folder)


def _requantize(gguf: Path, target: Path) -> None:
    """Write the GGUF file anew with all matrices in Q8_0: 8 bits, a scale for 32 weights, no offset."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, Keys, LlamaFileType
    from gguf.quants import dequantize, quantize

    reader = GGUFReader(gguf)
    writer = GGUFWriter(target, reader.fields[Keys.General.ARCHITECTURE].contents())
    for name, field in reader.fields.items():
        if name == Keys.General.ARCHITECTURE or name.startswith("GGUF."):
            continue  # the writer writes them
        kind, of = field.types[0], field.types[-1]
        value = int(LlamaFileType.MOSTLY_Q8_0) if name == Keys.General.FILE_TYPE else field.contents()
        writer.add_key_value(name, value, kind, sub_type=of if kind == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type)
        if weights.ndim > 1:
            writer.add_tensor(tensor.name, quantize(weights, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(tensor.name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for name in _TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def _plain_copy(dequantized: Any) -> Any:
    """The same model without the mark "quantized", with which transformers refuses to save it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = dequantized.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    model.load_state_dict(dequantized.state_dict())
    model.tie_weights()
    model.generation_config.bos_token_id = _BOS_TOKEN_ID
    model.generation_config.eos_token_id = _EOS_TOKEN_ID
    model.generation_config.pad_token_id = _EOS_TOKEN_ID
    return model
