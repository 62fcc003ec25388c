"""Lists of prompts answered by a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchpipe.api.loaded import Loaded
from batchpipe.api.outputs import RequestOutput, outputs_of
from batchpipe.api.sampling import Params, SamplingParams, samplings_of
from batchpipe.api.watching import watching
from batchpipe.job.forms import check_own_form
from batchpipe.job.language import Language
from batchpipe.job.prompt_list import prepare_list
from batchpipe.job.row_sampling import default_sampling
from batchpipe.running.in_memory import answer_in_memory
from batchpipe.running.progress import Progress


def request_outputs(
    loaded: Loaded,
    language: Language,
    prompts: Sequence[object],
    params: Params,
    progress: bool | Callable[[Progress], object],
) -> list[RequestOutput]:
    """One output for each prompt, in their order.

    Args:
        language: the model's own, or one that puts chats otherwise

    Raises:
        ConfigError: the parameters of all prompts are wrong
    """
    if isinstance(params, SamplingParams):
        check_own_form(params.given())
    defaults = default_sampling(loaded.options, language)
    samplings = samplings_of(params, len(prompts), defaults)
    listed = prepare_list(prompts, samplings, language, on_too_long=loaded.options.on_too_long)
    watcher = watching(progress)
    rows = answer_in_memory(listed.job, language, loaded.backend, loaded.dtype, watcher)
    return outputs_of(listed, rows)
