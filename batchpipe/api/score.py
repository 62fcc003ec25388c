"""How likely a model finds given texts, as a function."""

from __future__ import annotations

from collections.abc import Callable

from batchpipe.api.model import Model, opened
from batchpipe.api.score_outputs import ScoreOutput
from batchpipe.running.progress import Progress


def score(
    prompts: object,
    continuations: object,
    *,
    model: Model,
    progress: bool | Callable[[Progress], object] = False,
) -> list[ScoreOutput]:
    """How likely each continuation is behind the prompt in its place; nothing is drawn.

    Prompts that begin alike are computed once: to compare several continuations of one prompt,
    give it once for each.

    >>> import batchpipe as bp
    >>> from batchpipe.demo.prompt import MODEL_DIR
    >>> prompt = '{"category":"'
    >>> found = bp.score([prompt, prompt], ["return", "kettle"], model=MODEL_DIR)
    >>> found[0].logprob > found[1].logprob
    True

    Args:
        prompts: as `LLM.generate`
        continuations: texts or lists of token ids, one for each prompt
        model: an `LLM`, which stays open, or a model's name or directory
        progress: True shows it on stderr; a function is called with a `Progress`

    Raises:
        ConfigError: there are not as many of both, or the model is not there or closed
        TypeError: what is given is no list of prompts, or no model
    """
    with opened(model) as llm:
        return llm.score(prompts, continuations, progress=progress)
