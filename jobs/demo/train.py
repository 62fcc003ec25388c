"""Train the demo's model from scratch and write everything that ships in ``batchpipe/demo``.

    python jobs/demo/train.py

The same seed, thread count and torch build give the same weights. Training runs in float32, the
weights are stored in bfloat16, and the accuracy printed at the end is that of the stored files.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from shared_prefix import ATTENTION, Batch, Segment, copying_batch, loss, pack
from tickets import ORDER_LETTERS, tickets
from tokenizer import train_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from batchpipe.demo import prompt
from batchpipe.demo.prompt import Label, Scores, Ticket

HELD_OUT_SEED, CORPUS_SEED, TRAINING_SEED = 1, 2, 3
HELD_OUT_TICKETS, CORPUS_TICKETS = 500, 4000
MAX_TOKENS = 2048  # of the context
ANSWER_TOKENS = 40  # the longest answer that the evaluation waits for


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long each stage of the training is, in steps, and how it learns.

    First copying alone, then tickets without the prefix (five times cheaper), then whole prompts.
    """

    copying_steps: int = 350
    short_steps: int = 1600
    whole_steps: int = 1050
    copying_share: float = 0.2  # of the short stage: keeps the skill until tickets need it
    copying_rows: int = 32
    copying_width: int = 40  # tokens
    ticket_rows: int = 16
    question_weight: float = 0.1  # of a ticket's own tokens, in the short stage
    peak_rate: float = 1e-3  # 2e-3 copied 33 % of the tokens after 240 steps, 1e-3 copied 78 %
    warmup_steps: int = 100
    weight_decay: float = 0.05

    @property
    def steps(self) -> int:
        """The steps of all stages."""
        return self.copying_steps + self.short_steps + self.whole_steps

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``: level while copying, then a cosine to 2 %."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        fallen = max(0, step - self.copying_steps) / (self.steps - self.copying_steps)
        return self.peak_rate * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * fallen)) / 2)


class PromptTokens:
    """The demo's prompts as token ids: the prefix that all share, and each ticket's segment."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        prompts = [self._rendered(text) for text in ("a", "B 1")]
        same = (one == two for one, two in zip(*prompts, strict=False))
        self.prefix = prompts[0][: list(same).index(False)]

    def segment(self, text: str, label: Label) -> Segment:
        """Return the tokens of one ticket behind the prefix, and of its answer with its eos."""
        token_ids = self._rendered(text)
        assert token_ids[: len(self.prefix)] == self.prefix, text
        answer = self._tokenizer(prompt.answer(label), add_special_tokens=False).input_ids
        return Segment(token_ids[len(self.prefix) :], [*answer, int(self._tokenizer.eos_token_id)])

    def _rendered(self, text: str) -> list[int]:
        token_ids: list[int] = self._tokenizer.apply_chat_template(
            prompt.messages(text), add_generation_prompt=True, return_dict=False
        )
        return token_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--seed", type=int, default=TRAINING_SEED)
    parser.add_argument("--out", type=Path, default=prompt.DEMO_DIR, help="folder to write into")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model_dir = options.out / "model"
    model_dir.mkdir(parents=True, exist_ok=True)

    held_out = held_out_tickets()
    write_tickets(options.out / "tickets.jsonl", held_out)
    tokenizer = train_tokenizer(corpus(), vocabulary=2048, max_tokens=MAX_TOKENS)
    tokenizer.save_pretrained(model_dir, save_jinja_files=False)
    model = new_model(tokenizer, options.seed)
    train(model, tokenizer, held_out, Schedule(), options.seed)
    save(model, model_dir)
    for dtype in (torch.float32, torch.bfloat16):
        print(dtype, asdict(evaluate(model_dir, held_out, dtype)), flush=True)


def held_out_tickets() -> list[Ticket]:
    """Return the tickets that ship with the package; training never sees their texts."""
    return [
        Ticket(f"ticket-{number:03}", text, label)
        for number, (text, label) in enumerate(islice(tickets(HELD_OUT_SEED), HELD_OUT_TICKETS))
    ]


def write_tickets(path: Path, held_out: Sequence[Ticket]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        for ticket in held_out:
            row = {"request_id": ticket.request_id, "text": ticket.text, **asdict(ticket.label)}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def corpus() -> Iterator[str]:
    """Yield the texts that the tokenizer learns its words from."""
    for text, label in islice(tickets(CORPUS_SEED), CORPUS_TICKETS):
        yield text
        yield prompt.answer(label)
    for _ in range(CORPUS_TICKETS // 200):
        yield prompt.system_text() + "\nsystem\nuser\nassistant\n"


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return an untrained model whose attention understands packed batches."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=ATTENTION,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    held_out: Sequence[Ticket],
    schedule: Schedule,
    seed: int,
) -> None:
    """Train ``model`` in place through all stages of ``schedule``."""
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=schedule.weight_decay, fused=True
    )
    started = time.monotonic()
    losses: list[float] = []
    for step, batch in enumerate(batches(tokenizer, held_out, schedule, seed)):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        step_loss = loss(model, batch)
        step_loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(step_loss.item())
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            mean = sum(losses[-50:]) / 50
            print(f"step {step + 1}/{schedule.steps}  loss {mean:.4f}  {seconds:.0f} s", flush=True)


def batches(
    tokenizer: PreTrainedTokenizerFast, held_out: Sequence[Ticket], schedule: Schedule, seed: int
) -> Iterator[Batch]:
    """Yield the batch of every step."""
    draw = random.Random(seed)
    tokens = PromptTokens(tokenizer)
    rows = ticket_rows(tokens, held_out, schedule.ticket_rows, seed)
    copied = [*"0123456789", *ORDER_LETTERS, *(f"Ġ{letter.lower()}" for letter in ORDER_LETTERS)]
    alphabet = tokenizer.convert_tokens_to_ids(copied)
    assert tokenizer.unk_token_id not in alphabet
    whole_from = schedule.copying_steps + schedule.short_steps
    for step in range(schedule.steps):
        short = step < whole_from
        if step < schedule.copying_steps or (short and draw.random() < schedule.copying_share):
            yield copying_batch(draw, alphabet, schedule.copying_rows, schedule.copying_width)
        else:
            prefix, weight = ([], schedule.question_weight) if short else (tokens.prefix, 0.0)
            yield pack(next(rows), prefix, len(tokens.prefix), weight)


def ticket_rows(
    tokens: PromptTokens, held_out: Sequence[Ticket], rows: int, seed: int
) -> Iterator[list[Segment]]:
    """Yield lists of ``rows`` fresh tickets of like length, so that little is padding."""
    draw = random.Random(seed)
    stream = tickets(seed, excluded=frozenset(ticket.text for ticket in held_out))
    while True:
        pool = [tokens.segment(text, label) for text, label in islice(stream, 16 * rows)]
        pool.sort(key=lambda segment: len(segment.question) + len(segment.answer))
        chunks = [pool[start : start + rows] for start in range(0, len(pool), rows)]
        draw.shuffle(chunks)
        yield from chunks


def save(model: LlamaForCausalLM, model_dir: Path) -> None:
    """Write the weights in bfloat16, with a generation config that is greedy."""
    model.set_attn_implementation("sdpa")
    model.generation_config.max_new_tokens = ANSWER_TOKENS
    model.generation_config.do_sample = False
    model.to(torch.bfloat16).save_pretrained(model_dir)


@torch.inference_mode()
def evaluate(
    model_dir: Path, held_out: Sequence[Ticket], dtype: torch.dtype, rows: int = 25
) -> Scores:
    """Return the scores of the stored model through plain ``generate`` on whole prompts."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    outputs: list[str] = []
    for start in range(0, len(held_out), rows):
        chats = [prompt.messages(ticket.text) for ticket in held_out[start : start + rows]]
        prompts = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        generated = model.generate(**prompts, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        answers = generated[:, prompts["input_ids"].shape[1] :]
        outputs += tokenizer.batch_decode(answers, skip_special_tokens=True)
    return prompt.score(outputs, [ticket.label for ticket in held_out])


if __name__ == "__main__":
    main()
