"""Four ways to answer an operator's prompts, for `operator_at_a_time.py`: all greedy."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from baselines import Work, padded_generate

BATCH_ROWS = 16


@dataclass(frozen=True, slots=True)
class Said:
    """An answer; ``least_gap`` is by how much the closest of its choices was decided, if known."""

    text: str
    least_gap: float = float("inf")


class Answerer(Protocol):
    """A model in memory."""

    counts: Counter[str]  # of calls and tokens, under the names of a run's summary

    def answered(self, prompts: Sequence[str], max_tokens: int) -> list[Said]:
        """The answers, in the prompts' order."""


class FlatRunner:
    """batchpipe's own `LLM`: every list of prompts is one plan."""

    def __init__(self, model: str, dtype: str) -> None:
        import batchpipe as bp

        self.counts = Counter[str]()
        self._llm = bp.LLM(model, dtype=dtype)

    def answered(self, prompts: Sequence[str], max_tokens: int) -> list[Said]:
        """One plan, one batch."""
        import batchpipe as bp

        answers = self._llm.generate(list(prompts), bp.SamplingParams(max_tokens=max_tokens))
        self.counts["calls"] += len(set(prompts))
        for each in answers:
            assert each.error is None, each.error
            self.counts["prompt_tokens"] += each.prompt_tokens
            self.counts["computed_prompt_tokens"] += each.prompt_tokens - each.cached_tokens
            self.counts["completion_tokens"] += each.completion_tokens
        return [Said(str(each.output)) for each in answers]


class Command:
    """`batchpipe run` for every list of prompts, from file to file in a process of its own."""

    def __init__(self, model: str, dtype: str) -> None:
        self.counts = Counter[str]()
        self._model, self._dtype = model, dtype

    def answered(self, prompts: Sequence[str], max_tokens: int) -> list[Said]:
        """One job."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            given, out = Path(folder) / "prompts.parquet", Path(folder) / "answers.parquet"
            pq.write_table(pa.table({"prompt": list(prompts)}), given)
            options = ["--dtype", self._dtype, "--max-tokens", str(max_tokens), "--json"]
            files = [str(given), "--model", self._model, "--out", str(out)]
            command = [sys.executable, "-m", "batchpipe", "run", *files, *options]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            answers = pq.read_table(out, columns=["output"])["output"].to_pylist()
        summary = json.loads(done.stdout)
        self.counts["calls"] += len(set(prompts))
        for name in ("prompt_tokens", "computed_prompt_tokens", "completion_tokens"):
            self.counts[name] += summary[name]
        return [Said(answer) for answer in answers]


class _Transformers:
    """A model of transformers and its tokenizer."""

    def __init__(self, model: str, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        self.counts = Counter[str]()
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype)
        ).eval()
        self._model.generation_config = GenerationConfig()  # it would fill what is left at None

    def _work(self, prompts: Sequence[str], max_tokens: int) -> Work:
        ids = self._tokenizer(list(prompts))["input_ids"]
        self.counts["calls"] += len(prompts)
        self.counts["prompt_tokens"] += sum(map(len, ids))
        self.counts["computed_prompt_tokens"] += sum(map(len, ids))
        ends = self._tokenizer.eos_token_id
        return Work(ids, max_tokens, self._tokenizer.pad_token_id, ends)

    def _text(self, token_ids: Sequence[int]) -> str:
        """Of the tokens before the end."""
        ends = self._tokenizer.eos_token_id
        kept = list(token_ids[: token_ids.index(ends)] if ends in token_ids else token_ids)
        self.counts["completion_tokens"] += min(len(kept) + 1, len(token_ids))
        return str(self._tokenizer.decode(kept, skip_special_tokens=True))


class PaddedGenerate(_Transformers):
    """Length-sorted, left-padded batches through `model.generate`."""

    def answered(self, prompts: Sequence[str], max_tokens: int) -> list[Said]:
        """Batch by batch."""
        work = self._work(prompts, max_tokens)
        return [Said(self._text(ids)) for ids in padded_generate(self._model, work, BATCH_ROWS)]


class SingleGenerate(_Transformers):
    """`model.generate` prompt by prompt, with how clear its choices were."""

    def answered(self, prompts: Sequence[str], max_tokens: int) -> list[Said]:
        """One after the other."""
        import torch
        from transformers import GenerationConfig

        work, answers = self._work(prompts, max_tokens), []
        config = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=work.eos_token_id,
            pad_token_id=work.pad_token_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        for ids in work.prompts:
            given = torch.tensor([ids])  # [1, prompt_tokens]
            made = self._model.generate(
                given, attention_mask=torch.ones_like(given), generation_config=config
            )
            best = torch.cat(made.logits).topk(2).values  # [steps, 2]
            text = self._text(made.sequences[0, len(ids) :].tolist())
            answers.append(Said(text, float((best[:, 0] - best[:, 1]).min())))
        return answers


ANSWERERS: dict[str, Callable[[str, str], Answerer]] = {
    "batchpipe": FlatRunner,
    "commands": Command,
    "padded": PaddedGenerate,
    "single": SingleGenerate,
}
