"""A model's configuration, tokenizer and generation defaults: all of it but the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from batchpipe.config import ENGINES, JobOptions
from batchpipe.engine.served import refuse, refuse_by_config, refuse_requantizing
from batchpipe.errors import ConfigError
from batchpipe.planner.machine.model_shape import ModelShape, context_of
from batchpipe.rows.parameters import check_sampling

TOKENIZED_AT_ONCE = 1024  # prompts; bounds the tokenizer's own objects


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """How text becomes tokens for one model, and what the model says of itself."""

    name: str
    config: Any  # transformers PreTrainedConfig
    tokenizer: Any  # transformers PreTrainedTokenizerBase
    vocab: int  # token ids are below it
    context: int  # positions, for prompt and answer together
    eos_token_ids: frozenset[int]
    defaults: dict[str, Any]  # sampling defaults of generation_config.json
    chat_options: dict[str, Any] = field(default_factory=dict)  # for the chat template

    def within(self, context: int | None) -> Language:
        """The same, of a model that is served with so short a context; None: with its own."""
        return self if context is None else replace(self, context=min(context, self.context))

    def tokenize(self, texts: Sequence[str], *, special_tokens: bool) -> list[list[int]]:
        """Token ids of every text; ``special_tokens`` adds those that a plain text begins with."""
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
            messages, **{"add_generation_prompt": True, **self.chat_options, "tokenize": False}
        )
        return text


def load_config(options: JobOptions) -> Any:  # transformers PreTrainedConfig
    """Configuration of a hub id or a local directory.

    Raises:
        ConfigError: the model is not there, or its directory lacks a usable configuration
        UnsupportedModelError: the configuration is none that the engine serves
    """
    import transformers

    name = options.model
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"model directory {name} has no config.json; give a directory saved by save_pretrained"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(name, **_source(options))
    except Exception as error:  # each configuration class checks its fields in its own way
        raise ConfigError(
            f"model {name} cannot be loaded; give a hub id or a local model directory "
            f"({_first_line(error)})"
        ) from error
    if options.engine == ENGINES[0]:
        refuse_by_config(name, config)
    if options.quantize is not None:
        refuse_requantizing(name, config, options.quantize)
    return config


def load_language(options: JobOptions, config: Any) -> Language:
    """Tokenizer and generation defaults of the model with this configuration.

    Raises:
        ConfigError: the tokenizer is not there, or the defaults are out of range
    """
    text_config = config.get_text_config()
    tokenizer = _load_tokenizer(options)
    generation = _generation_defaults(options)
    eos = generation.get("eos_token_id", text_config.eos_token_id)
    if eos is None:
        eos = tokenizer.eos_token_id
    return Language(
        name=options.model,
        config=config,
        tokenizer=tokenizer,
        vocab=getattr(text_config, "vocab_size", None) or len(tokenizer),
        context=context_of(text_config),
        eos_token_ids=frozenset([eos] if isinstance(eos, int) else eos or ()),
        defaults=_sampling_defaults(options.model, generation),
    ).within(_asked_context(options, context_of(text_config)))


def _asked_context(options: JobOptions, context: int) -> int | None:
    asked = options.max_model_len
    if asked is not None and not 1 < asked <= context:
        raise ConfigError(
            f"--max-model-len {asked} must be from 2 to the context of {options.model}, {context}"
        )
    return asked


def _source(options: JobOptions) -> dict[str, Any]:
    return {"revision": options.revision, "trust_remote_code": options.trust_remote_code}


def shape_of(options: JobOptions, config: Any) -> ModelShape:
    """The sizes of the model, its weights as they will be loaded.

    Raises:
        UnsupportedModelError: the configuration lacks the sizes of a decoder
    """
    name = options.model
    try:
        shape = ModelShape.from_config(config.get_text_config())
    except AttributeError as missing:
        refuse(name, config, f"its configuration has no {missing.name}")
    except RuntimeError:  # as transformers answers where a size differs from layer to layer
        refuse(name, config, "its layers differ in size")
    return replace(shape, quantize=options.quantize)


def _load_tokenizer(options: JobOptions) -> Any:
    import transformers

    name = options.model
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **_source(options))
        usable = len(tokenizer) > len(tokenizer.all_special_ids)
    except Exception as error:  # as do tokenizer classes
        raise ConfigError(
            f"the tokenizer of model {name} cannot be loaded; save one beside the model with "
            f"save_pretrained ({_first_line(error)})"
        ) from error
    if not usable:  # transformers makes an empty one where the directory has no files of one
        raise ConfigError(
            f"model {name} has no tokenizer; save one beside the model with save_pretrained"
        )
    return tokenizer


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _generation_defaults(options: JobOptions) -> dict[str, Any]:
    """What generation_config.json sets, nothing where there is none."""
    import transformers

    name = options.model
    try:
        generation = transformers.GenerationConfig.from_pretrained(name, revision=options.revision)
    except OSError as error:
        if not (Path(name) / "generation_config.json").exists():
            return {}
        raise ConfigError(
            f"generation_config.json of model {name} cannot be read; mend or remove it "
            f"({_first_line(error)})"
        ) from error
    given: dict[str, Any] = generation.to_diff_dict()
    return given


def _sampling_defaults(model: str, generation: dict[str, Any]) -> dict[str, Any]:
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
    try:
        check_sampling(**defaults)
    except ConfigError as error:
        raise ConfigError(
            f"generation_config.json of model {model}: {error}; mend or remove it"
        ) from error
    return defaults
