"""The job through OpenVINO GenAI: its continuous batching with prefix cache, plain or tuned."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from prefixes import leaders, longest_first
from task import Answers, Task, serve

BLOCK_TOKENS = 32  # of its CPU kernels, fixed
BATCH_TOKENS = 2048
BATCH_ROWS = 64
KV_GIGABYTES = 4
PRECISION = {"float32": "f32", "bfloat16": "bf16"}


def load(task: Task) -> Any:
    """The pipeline stands; what is returned answers prompts in order."""
    precision = PRECISION[task.dtype]
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": task.threads,
    }
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    scheduler.cache_size = KV_GIGABYTES
    if task.kv_tokens:
        scheduler.cache_size = 0
        scheduler.num_kv_blocks = -(-task.kv_tokens // BLOCK_TOKENS)
    if task.tuned:  # else KV lies in 8 bits, which changes tokens
        properties["KV_CACHE_PRECISION"] = precision
        scheduler.max_num_batched_tokens = task.batch_tokens or BATCH_TOKENS
        scheduler.max_num_seqs = task.batch_rows or BATCH_ROWS
    pipeline = genai.ContinuousBatchingPipeline(
        str(task.engine_model), scheduler, "CPU", properties
    )
    greedy = genai.GenerationConfig()
    greedy.max_new_tokens = task.max_tokens
    greedy.ignore_eos = True
    greedy.do_sample = False
    if task.tuned:
        return lambda prompts: _led(pipeline, greedy, prompts, scheduler.max_num_seqs)
    return lambda prompts: _listed(pipeline, greedy, prompts)


def _listed(pipeline: Any, greedy: Any, prompts: list[list[int]]) -> Answers:
    """All at once, as its samples do: requests that start together share nothing."""
    tensors = [_tensor(tokens) for tokens in prompts]
    results = pipeline.generate(tensors, [greedy] * len(tensors))
    return [list(result.m_generation_ids[0]) for result in results]


def _led(pipeline: Any, greedy: Any, prompts: list[list[int]], most_rows: int) -> Answers:
    """In sorted order, each prompt added once the one whose prefix it shares has a first token.

    The prefix cache is looked up when a request is added, never later.
    """
    order = longest_first(prompts)
    waits = leaders(prompts, order)
    answers: Answers = [[] for _ in prompts]
    begun = [False] * len(order)  # by place: its prompt is computed
    waiting = deque(range(len(order)))
    running: dict[int, Any] = {}
    while waiting or running:
        held: list[int] = []
        while waiting and len(running) < most_rows:
            place = waiting.popleft()
            leader = waits[place]
            if leader is None or begun[leader]:
                tensor = _tensor(prompts[order[place]])
                running[place] = pipeline.add_request(place, tensor, greedy)
            else:
                held.append(place)
        waiting.extendleft(reversed(held))
        pipeline.step()
        for place, handle in list(running.items()):
            if not handle.can_read():
                continue
            begun[place] = True
            for output in handle.read().values():
                answers[order[place]].extend(output.generated_ids)
            if handle.get_status() != genai.GenerationStatus.RUNNING:
                del running[place]
    return answers


def _tensor(tokens: list[int]) -> Any:
    return ov.Tensor(np.asarray([tokens], dtype=np.int64))


if __name__ == "__main__":
    serve(load, "openvino-genai")
