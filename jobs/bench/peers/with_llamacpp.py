"""The job through llama.cpp: one prompt after another as its README says, or batched by hand."""

from __future__ import annotations

import ctypes
from itertools import islice
from typing import Any

import llama_cpp
import numpy as np
from prefixes import common_tokens, families, longest_first
from task import Answers, Task, serve

BATCH_TOKENS = 2048
BATCH_ROWS = 64
GGML_TYPE_BF16 = 30


def load(task: Task) -> Any:
    """The model stands; what is returned answers prompts in order."""
    return _batched(task) if task.tuned else _one_by_one(task)


def _one_by_one(task: Task) -> Any:
    """`Llama.generate`, which keeps the beginning that a prompt shares with the one before it.

    Its defaults, but for all the threads and a context that takes the prompts.
    """
    llama = llama_cpp.Llama(
        str(task.engine_model),
        n_ctx=max(task.longest_tokens, task.kv_tokens),
        n_threads=task.threads,
        n_threads_batch=task.threads,
        verbose=False,
    )

    def answer(prompts: list[list[int]]) -> Answers:
        answers: Answers = []
        for tokens in prompts:
            answers.append(list(islice(llama.generate(tokens, temp=0.0), task.max_tokens)))
        return answers

    return answer


def _batched(task: Task) -> Any:
    """Families of prompts with one beginning, which lies once in a KV buffer that all share."""
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        str(task.engine_model).encode(), llama_cpp.llama_model_default_params()
    )
    rows = task.batch_rows or BATCH_ROWS
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = max(task.kv_tokens, task.longest_tokens)
    settings.n_batch = settings.n_ubatch = task.batch_tokens or BATCH_TOKENS
    settings.n_seq_max = rows + 1
    settings.kv_unified = True  # else sharing copies
    settings.n_threads = settings.n_threads_batch = task.threads
    # Flash attention computes float32 partly in float16, which changes tokens.
    exact = task.dtype == "float32"
    settings.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if exact
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    )
    settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32 if exact else GGML_TYPE_BF16
    context = llama_cpp.llama_init_from_model(model, settings)
    if context is None:
        raise SystemExit("llama.cpp made no context of these settings")
    engine = _Engine(context, model, settings.n_batch)

    def answer(prompts: list[list[int]]) -> Answers:
        answers: Answers = [[] for _ in prompts]
        for run, common in families(prompts, longest_first(prompts), rows):
            made = engine.family([prompts[row] for row in run], common, task.max_tokens)
            for row, tokens in zip(run, made, strict=True):
                answers[row] = tokens
        return answers

    return answer


class _Engine:
    """A context whose sequence 0 holds the beginning of the family before."""

    def __init__(self, context: Any, model: Any, batch_tokens: int) -> None:
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch_tokens = batch_tokens
        self._batch = llama_cpp.llama_batch_init(batch_tokens, 0, 1)
        self._held: list[int] = []

    def family(self, prompts: list[list[int]], common: int, max_tokens: int) -> Answers:
        """Greedy answers of prompts that begin with the same ``common`` tokens."""
        common = min(common, min(map(len, prompts)) - 1)  # each has a last token of its own
        begin = prompts[0][:common]
        kept = common_tokens(self._held, begin)
        llama_cpp.llama_memory_seq_rm(self._memory, 0, kept, -1)
        self._compute([(token, at, 0, False) for at, token in enumerate(begin)][kept:])
        self._held = begin
        for sequence in range(1, len(prompts) + 1):
            llama_cpp.llama_memory_seq_cp(self._memory, 0, sequence, 0, common)
        asked = [
            (tokens[at], at, sequence, at == len(tokens) - 1)
            for sequence, tokens in enumerate(prompts, start=1)
            for at in range(common, len(tokens))
        ]
        answers: Answers = [[token] for token in self._compute(asked)]
        for step in range(max_tokens - 1):
            asked = [
                (answer[-1], len(tokens) + step, sequence, True)
                for sequence, (tokens, answer) in enumerate(
                    zip(prompts, answers, strict=True), start=1
                )
            ]
            for answer, token in zip(answers, self._compute(asked), strict=True):
                answer.append(token)
        for sequence in range(1, len(prompts) + 1):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return answers

    def _compute(self, asked: list[tuple[int, int, int, bool]]) -> list[int]:
        """The likeliest next tokens, of those (token, position, sequence, wanted) wanted."""
        found: list[int] = []
        for start in range(0, len(asked), self._batch_tokens):
            part = asked[start : start + self._batch_tokens]
            for at, (token, position, sequence, wanted) in enumerate(part):
                self._batch.token[at] = token
                self._batch.pos[at] = position
                self._batch.n_seq_id[at] = 1
                self._batch.seq_id[at][0] = sequence
                self._batch.logits[at] = wanted
            self._batch.n_tokens = len(part)
            code = llama_cpp.llama_decode(self._context, self._batch)
            if code != 0:
                raise SystemExit(f"llama_decode answered {code}; give fewer --batch-rows")
            wanted_rows = sum(wanted for *_, wanted in part)
            if wanted_rows:
                logits = llama_cpp.llama_get_logits(self._context)
                address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
                table = np.ctypeslib.as_array(address, (wanted_rows, self._vocab))
                found += table.argmax(axis=1).tolist()
        return found


if __name__ == "__main__":
    serve(load, "llama-cpp-python")
