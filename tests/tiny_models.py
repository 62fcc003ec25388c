"""Tiny random-weight models of every served architecture, with a byte-level tokenizer.

A plain random initialisation makes attention a near-uniform average and the answer one repeated
token, which proves nothing about attention or KV memory. So the weights are drawn wide: attention
projections with 30 times, everything else with 1.5 times the usual standard deviation.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GenerationConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

# 256 bytes, 126 learned merges, then the two special tokens: ids below 382 are plain text.
VOCAB_SIZE = 384
EOS_TOKEN_ID = 382
PAD_TOKEN_ID = 383
CONTEXT_TOKENS = 512
WINDOW_TOKENS = 8  # small enough that every test prompt outgrows it

_INITIAL_STD = 0.02
_ATTENTION_SCALE = 30.0
_OTHER_SCALE = 1.5
_NORM_JITTER_STD = 0.1
_QUERY_KEY_NORM_GAIN = 2.0  # normed queries and keys ignore the wide weights; this sharpens them
_BIAS_STD = 0.5
_QUERY_KEY_NORMS = ("q_norm.weight", "k_norm.weight")

_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

_MERGE_TEXT = """
The customer writes that the parcel arrived late and the box was open. Answer the question with
one word. The order number is on the first line of the letter, and the refund goes to the same
card. Please tell them when the new parcel will arrive; they have waited for three weeks.
Question: which of these tickets is urgent? Answer: the second one, because the water is rising.
"""

_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def _sized(config_class: Callable[..., PreTrainedConfig], layers: int = 2, **own: Any) -> Any:
    """A config of the class at test size; ``own`` overrides and adds."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT_TOKENS,
        "initializer_range": _INITIAL_STD,
        "bos_token_id": None,
        "eos_token_id": EOS_TOKEN_ID,
        "pad_token_id": PAD_TOKEN_ID,
        "tie_word_embeddings": False,
    }
    return config_class(**(sizes | own))


def _gpt_neox() -> PreTrainedConfig:
    """GPT-NeoX has one KV head per query head and derives its head size."""
    config: PreTrainedConfig = GPTNeoXConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=PAD_TOKEN_ID,
    )
    return config


TINY_MODELS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: _sized(LlamaConfig),
    "llama_tied": lambda: _sized(LlamaConfig, tie_word_embeddings=True),
    "llama_bias": lambda: _sized(LlamaConfig, attention_bias=True, mlp_bias=True),
    "qwen2": lambda: _sized(Qwen2Config),
    "qwen3": lambda: _sized(Qwen3Config),
    "mistral": lambda: _sized(MistralConfig, sliding_window=WINDOW_TOKENS),
    "gemma2": lambda: _sized(
        Gemma2Config,
        layers=4,
        layer_types=_ALTERNATING,
        sliding_window=WINDOW_TOKENS,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=10.0,  # the scores reach beyond 20, so that the cap bends them
        final_logit_softcapping=1.0,
        tie_word_embeddings=True,
    ),
    "gemma3": lambda: _sized(
        Gemma3TextConfig,
        layers=4,
        layer_types=_ALTERNATING,
        sliding_window=WINDOW_TOKENS,
        query_pre_attn_scalar=16,
        tie_word_embeddings=True,
    ),
    "phi3": lambda: _sized(Phi3Config),
    "olmo2": lambda: _sized(Olmo2Config),
    "gpt_neox": _gpt_neox,
    "mixtral": lambda: _sized(MixtralConfig, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: _sized(
        Qwen3MoeConfig,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        norm_topk_prob=True,
    ),
}

WINDOWED_MODELS = frozenset({"mistral", "gemma2", "gemma3"})


def make_model(name: str, folder: Path) -> Path:
    """Leave config, float32 safetensors, generation config and tokenizer in ``folder``.

    The weights depend on the name alone. Returns ``folder``.
    """
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(TINY_MODELS[name](), dtype=torch.float32)
    _draw_weights(model, seed=zlib.crc32(name.encode()))
    model.generation_config = GenerationConfig(eos_token_id=EOS_TOKEN_ID, pad_token_id=PAD_TOKEN_ID)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def _draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Every parameter is drawn anew from its own distribution, in the order of the names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.empty_like(parameter).normal_(generator=generator)
            in_attention = ".self_attn." in name or ".attention." in name
            if name.endswith("bias"):
                parameter.copy_(noise * _BIAS_STD)
            elif parameter.dim() == 1:  # a norm: jitter it, so that leaving it out would show
                gain = _QUERY_KEY_NORM_GAIN if name.endswith(_QUERY_KEY_NORMS) else 0.0
                parameter.add_(noise * _NORM_JITTER_STD + gain)
            else:
                scale = _ATTENTION_SCALE if in_attention else _OTHER_SCALE
                parameter.copy_(noise * (_INITIAL_STD * scale))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of `VOCAB_SIZE` tokens: any text encodes, any ids decode to text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=EOS_TOKEN_ID,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=1,
    )
    tokenizer.train_from_iterator([_MERGE_TEXT], trainer=trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",  # the name that Qwen2's tokenizer class would add on its own
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_TOKENS,
    )
    wrapped.chat_template = _CHAT_TEMPLATE
    special_ids = (wrapped.eos_token_id, wrapped.pad_token_id)
    assert special_ids == (EOS_TOKEN_ID, PAD_TOKEN_ID), special_ids
    return wrapped
