"""A model that is not there or cannot be served is refused by name before its weights load."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import call, write_lines
from transformers import MambaConfig, Qwen2Config, T5Config


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "job.jsonl", [{"prompt": "hi"}])


def sentences(job: Path, model: object) -> list[str]:
    """What `run` and `plan` say; both must refuse."""
    out = ("-o", job.parent / "answers.jsonl")
    both = [call("run", job, "-m", model, *out), call("plan", job, "-m", model)]
    assert [ran.code for ran in both] == [2, 2], both
    assert not (job.parent / "answers.jsonl.run").exists()
    return [ran.sentence for ran in both]


def test_a_directory_that_is_not_there_is_named(job: Path, tmp_path: Path) -> None:
    for sentence in sentences(job, tmp_path / "none"):
        assert "none" in sentence
        assert "give a hub id or a local model directory" in sentence


def test_an_unknown_hub_id_is_named(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for sentence in sentences(job, "nobody/no-model"):
        assert "model nobody/no-model cannot be loaded" in sentence


def test_a_directory_without_config_is_named(job: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for sentence in sentences(job, tmp_path / "empty"):
        assert "empty has no config.json" in sentence
        assert "save_pretrained" in sentence


@pytest.mark.parametrize(
    "config",
    [
        '{"model_type": "llama",',
        "{}",
        '{"model_type": "made-up"}',
        '{"model_type": "llama", "hidden_size": null}',
        '{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 5}',
    ],
)
def test_a_broken_config_is_named(job: Path, tmp_path: Path, config: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(config)
    for sentence in sentences(job, tmp_path / "broken"):
        assert f"model {tmp_path / 'broken'} cannot be loaded" in sentence


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        ("{nope", "cannot be read"),
        ('{"do_sample": true, "top_p": 2.0}', "top_p is 2.0; it must be a number above 0"),
    ],
)
def test_broken_defaults_are_named(
    job: Path, tmp_path: Path, bare_model: Path, generation: str, words: str
) -> None:
    shutil.copytree(bare_model, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(generation)
    for sentence in sentences(job, tmp_path / "model"):
        assert f"generation_config.json of model {tmp_path / 'model'}" in sentence
        assert words in sentence
        assert "mend or remove it" in sentence


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (T5Config, "it is an encoder-decoder, and batchpipe serves decoders only"),
        (MambaConfig, "it has linear_attention layers"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_with_the_reason(
    job: Path, tmp_path: Path, config: type[T5Config | MambaConfig], reason: str
) -> None:
    folder = tmp_path / "other"
    config().save_pretrained(folder)
    for sentence in sentences(job, folder):
        assert f"{folder} ({config.__name__}) cannot be served: {reason}" in sentence


def test_a_model_without_tokenizer_is_named(job: Path, tmp_path: Path, bare_model: Path) -> None:
    Qwen2Config().save_pretrained(tmp_path / "qwen")
    (tmp_path / "llama").mkdir()
    shutil.copy(bare_model / "config.json", tmp_path / "llama")
    for name in ("qwen", "llama"):
        for sentence in sentences(job, tmp_path / name):
            assert f"{tmp_path / name}" in sentence
            assert "tokenizer" in sentence
            assert "save_pretrained" in sentence


def test_missing_weights_are_named(job: Path, bare_model: Path) -> None:
    ran = call("run", job, "-m", bare_model, "-o", job.parent / "answers.jsonl")
    assert ran.code == 2
    assert f"model {bare_model}: its weights cannot be loaded" in ran.err
    assert not (job.parent / "answers.jsonl").exists()


@pytest.mark.parametrize("weights", [b"", b"not safetensors at all"])
def test_damaged_weights_are_named(
    job: Path, tmp_path: Path, bare_model: Path, weights: bytes
) -> None:
    shutil.copytree(bare_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(weights)
    ran = call("run", job, "-m", tmp_path / "model", "-o", job.parent / "answers.jsonl")
    assert ran.code == 2
    assert "weights cannot be loaded" in ran.err
