"""A model's configuration, tokenizer and generation defaults: all of it but the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.planner.model_shape import ModelShape

TOKENIZED_AT_ONCE = 1024  # prompts; bounds the tokenizer's own objects


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """How text becomes tokens for one model, and what the model says of itself."""

    name: str
    config: Any  # transformers PreTrainedConfig
    tokenizer: Any  # transformers PreTrainedTokenizerBase
    shape: ModelShape
    eos_token_ids: frozenset[int]
    defaults: dict[str, Any]  # sampling defaults of generation_config.json

    def tokenize(self, texts: Sequence[str], *, special_tokens: bool) -> list[list[int]]:
        """Token ids of every text; ``special_tokens`` adds what the tokenizer adds to a plain text."""
        ids: list[list[int]] = []
        for start in range(0, len(texts), TOKENIZED_AT_ONCE):
            some = list(texts[start : start + TOKENIZED_AT_ONCE])
            ids += self.tokenizer(
                some,
                add_special_tokens=special_tokens,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
        return ids

    def render_chat(self, messages: Any) -> str:
        """The messages in the model's chat template, up to where the answer begins."""
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text


def load_language(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Language:
    """Configuration and tokenizer of a hub id or a local directory.

    Raises:
        ConfigError: the model is not there, or its directory lacks what a model needs
    """
    import transformers

    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"model directory {name} has no config.json; give a directory saved by save_pretrained"
        )
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(_not_loaded("model", name, error)) from error
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(_not_loaded("tokenizer of model", name, error)) from error
    generation = _generation_defaults(transformers, name, revision)
    eos = generation.get("eos_token_id", config.get_text_config().eos_token_id)
    if eos is None:
        eos = tokenizer.eos_token_id
    return Language(
        name=name,
        config=config,
        tokenizer=tokenizer,
        shape=ModelShape.from_config(config.get_text_config().to_dict()),
        eos_token_ids=frozenset([eos] if isinstance(eos, int) else eos or ()),
        defaults=_sampling_defaults(generation),
    )


def _not_loaded(what: str, name: str, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0]
    return (
        f"{what} {name} cannot be loaded; give a hub id or a local model directory ({first_line})"
    )


def _generation_defaults(transformers: Any, name: str, revision: str | None) -> dict[str, Any]:
    """What generation_config.json sets, nothing where there is none."""
    try:
        generation = transformers.GenerationConfig.from_pretrained(name, revision=revision)
    except OSError:
        return {}
    given: dict[str, Any] = generation.to_diff_dict()
    return given


def _sampling_defaults(generation: dict[str, Any]) -> dict[str, Any]:
    """The same as sampling options: without ``do_sample`` a model answers greedily."""
    defaults: dict[str, Any] = {}
    if generation.get("do_sample"):
        defaults["temperature"] = 1.0
        for name in ("temperature", "top_p", "top_k", "min_p"):
            if generation.get(name) is not None:
                defaults[name] = generation[name]
        defaults.setdefault("top_k", 50)  # transformers' own default where it samples
    if generation.get("repetition_penalty"):
        defaults["repetition_penalty"] = generation["repetition_penalty"]
    if generation.get("max_new_tokens"):
        defaults["max_tokens"] = generation["max_new_tokens"]
    return defaults
