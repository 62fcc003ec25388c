"""Models of real shapes with random weights, and a tokenizer trained on the prompts.

    python jobs/bench/models.py make llama-25m PROMPTS.parquet DIR
    python jobs/bench/models.py count DIR JOB.parquet

The last line on stdout is a JSON object: of parameters, or of the job's tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq

CONTEXT_TOKENS = 16384
LEARNED_TOKENS = 8192  # what the BPE learns at most; a larger vocabulary is filled up
SPECIAL_TOKENS = ("<|end|>", "<|pad|>")
END_SCALE = 1.7  # with whole words: how much wider than a word's the weights of the end are drawn


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides a model's costs."""

    kind: str
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int


SHAPES = {
    "llama-8m": Shape("llama", 8192, 256, 704, 6, 4, 2, 64),
    "llama-25m": Shape("llama", 8192, 512, 1408, 8, 8, 4, 64),
    "smollm2-135m": Shape("llama", 49152, 576, 1536, 30, 9, 3, 64),
    "qwen3-0.6b": Shape("qwen3", 151936, 1024, 3072, 28, 16, 8, 128),
}


def make_model(
    shape: Shape, prompts: Sequence[str], folder: Path, *, whole_words: bool = False
) -> int:
    """A model of the shape and a BPE trained on the prompts lie in ``folder``.

    Returns the number of parameters. Attention weights are drawn with std 0.08 and the others with
    0.03 instead of 0.02 (for 512 hidden values; less for more): a plain initialisation repeats one
    token whatever the prompt says.

    With ``whole_words`` an answer is words of one token each: read again as text they are the same
    tokens, as a trained model's answers are, and now and then an answer ends before its limit.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    tokenizer = train_tokenizer(prompts, shape.vocab)
    torch.manual_seed(0)
    special = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(
        shape.kind,
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=not whole_words,
        **special,
    )
    model = AutoModelForCausalLM.from_config(config)
    narrower = (512 / shape.hidden) ** 0.5
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=(0.08 if "self_attn" in name else 0.03) * narrower)
        if whole_words:
            head = model.lm_head.weight  # [vocab, hidden]
            end = head[tokenizer.eos_token_id] * END_SCALE
            head[[each for each in range(shape.vocab) if not _is_word(tokenizer, each)]] = 0.0
            head[tokenizer.eos_token_id] = end
    model.generation_config = GenerationConfig(**special)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def _is_word(tokenizer: Any, token_id: int) -> bool:
    """Whether the token is a space and letters, and what that text becomes wherever it stands."""
    text = tokenizer.decode([token_id])
    is_letters = text[:1] == " " and text[1:].isascii() and text[1:].isalpha()
    return is_letters and tokenizer.encode(text) == [token_id]


def train_tokenizer(prompts: Sequence[str], vocab: int) -> Any:
    """A byte-level BPE with a text for each of exactly ``vocab`` ids, two of them special.

    Ids beyond what it learned have texts that no merge reaches: a model of random weights says
    them, and equal texts shall mean equal ids.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    learned = min(vocab, LEARNED_TOKENS) - len(SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=learned,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(prompts, trainer=trainer)
    written = json.loads(tokenizer.to_str())
    pieces = written["model"]["vocab"]
    for piece_id in range(len(pieces), vocab - len(SPECIAL_TOKENS)):
        pieces[f"Ġ<{piece_id}>"] = piece_id
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(written)),
        eos_token=SPECIAL_TOKENS[0],
        pad_token=SPECIAL_TOKENS[1],
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_TOKENS,
    )


def token_counts(folder: Path, prompts: Sequence[str]) -> dict[str, int]:
    """The prompts' tokens: all, those left when shared beginnings count once, of the longest."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = sorted(each.ids for each in tokenizer.encode_batch_fast(list(prompts)))
    shared = [_common_tokens(left, right) for left, right in pairwise(ids)]
    total = sum(map(len, ids))
    return {
        "rows": len(ids),
        "prompt_tokens": total,
        "distinct_tokens": total - sum(shared),
        "longest_tokens": max(map(len, ids)),
        "duplicates": sum(left == right for left, right in pairwise(ids)),
    }


def _common_tokens(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(left, right, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


@click.group()
def main() -> None:
    """Make the benchmark's models and count a job's tokens."""


@main.command("make")
@click.argument("shape", type=click.Choice(sorted(SHAPES)))
@click.argument("prompts", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--most-prompts", type=click.IntRange(min=1), help="Of a file, to learn from.")
@click.option("--whole-words", is_flag=True, help="Answers are words of one token each.")
def make_command(
    shape: str,
    prompts: tuple[Path, ...],
    folder: Path,
    most_prompts: int | None,
    whole_words: bool,
) -> None:
    """Make a model and its tokenizer from Parquet files with a prompt column."""
    texts = []
    for path in prompts:  # evenly spaced: files are in order of their tasks
        column = pq.read_table(path, columns=["prompt"])["prompt"].to_pylist()
        texts += column[:: max(1, len(column) // (most_prompts or len(column)))]
    made = make_model(SHAPES[shape], texts, folder, whole_words=whole_words)
    print(json.dumps({"parameters": made}))


@main.command("count")
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("job", type=click.Path(exists=True, path_type=Path))
def count_command(folder: Path, job: Path) -> None:
    """Count the tokens of a job file."""
    texts = pq.read_table(job, columns=["prompt"])["prompt"].to_pylist()
    print(json.dumps(token_counts(folder, texts)))


if __name__ == "__main__":
    main()
