"""The job through ONNX Runtime GenAI: one prompt after another, or with beginnings kept by hand.

It neither batches continuously nor caches prefixes; a generator of one row can be rewound.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime_genai as genai
from prefixes import common_tokens, longest_first
from task import Answers, Task, serve


def load(task: Task) -> Any:
    """The model stands; what is returned answers prompts in order."""
    if task.dtype != "float32":
        raise SystemExit("ONNX Runtime's CPU kernels know no bfloat16")
    config = genai.Config(str(task.engine_model))
    options = f'{{"intra_op_num_threads": {task.threads}}}'
    config.overlay(f'{{"model": {{"decoder": {{"session_options": {options}}}}}}}')
    model = genai.Model(config)
    return lambda prompts: (_rewound if task.tuned else _each)(model, task, prompts)


def _each(model: Any, task: Task, prompts: list[list[int]]) -> Answers:
    """The loop of its README."""
    answers: Answers = []
    for tokens in prompts:
        generator = _generator(model, len(tokens) + task.max_tokens)
        generator.append_tokens(np.asarray([tokens], dtype=np.int32))
        answers.append(_continued(generator, task.max_tokens))
    return answers


def _rewound(model: Any, task: Task, prompts: list[list[int]]) -> Answers:
    """In sorted order, each prompt goes on from where it leaves the one before."""
    answers: Answers = [[] for _ in prompts]
    generator = _generator(model, task.longest_tokens)
    held: list[int] = []
    for row in longest_first(prompts):
        tokens = prompts[row]
        kept = min(common_tokens(held, tokens), len(tokens) - 1)
        if held:
            generator.rewind_to(kept)
        generator.append_tokens(np.asarray([tokens[kept:]], dtype=np.int32))
        answers[row] = _continued(generator, task.max_tokens)
        held = tokens
    return answers


def _generator(model: Any, most_tokens: int) -> Any:
    search = genai.GeneratorParams(model)
    # The least length keeps it from ending at eos.
    search.set_search_options(do_sample=False, max_length=most_tokens, min_length=most_tokens)
    return genai.Generator(model, search)


def _continued(generator: Any, max_tokens: int) -> list[int]:
    made = []
    for _ in range(max_tokens):
        generator.generate_next_token()
        made.append(int(generator.get_next_tokens()[0]))
    return made


if __name__ == "__main__":
    serve(load, "onnxruntime-genai")
