"""A model that stays loaded and answers lists of prompts, each list as one planned batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any

from batchpipe.api.answering import request_outputs
from batchpipe.api.keywords import checked
from batchpipe.api.lists import is_list, kind_of, listed_prompts
from batchpipe.api.loaded import Held, Loaded, load
from batchpipe.api.outputs import RequestOutput
from batchpipe.api.sampling import Params
from batchpipe.api.score_outputs import ScoreOutput, score_outputs
from batchpipe.api.sentences import python_words
from batchpipe.config import JobOptions, RunOptions
from batchpipe.running.progress import Progress

Chat = Sequence[Mapping[str, Any]]


class LLM:
    """A model in this process, loaded when this returns and kept until `close`.

    Every list of prompts is one plan: what prompts share is computed once, equal prompts are one
    request, and memory alone limits how many run together. Keys and values are freed after each
    call. Threads may share an LLM; it answers one call after the other.

    >>> import batchpipe as bp
    >>> from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages
    >>> chats = [messages(ticket.text) for ticket in load_tickets()[:3]]
    >>> with bp.LLM(MODEL_DIR, dtype="float32") as llm:
    ...     for answer in llm.chat(chats, bp.SamplingParams(max_tokens=48)):
    ...         print(answer.output)
    {"category":"return","urgency":"low","order":"C41777"}
    {"category":"cancellation","urgency":"high","order":"D28657"}
    {"category":"account","urgency":"high","order":"none"}

    Args:
        model: hub id or local directory
        dtype: auto, float32, bfloat16 or float16
        device: auto, cpu or cuda
        tensor_parallel: devices of this machine that share the model, for one that is too large for
            each; several LLMs at once that are shared are so by equally many
        kv_memory: for keys and values, such as ``"4GB"``; auto takes what a call needs
        host_kv_memory: of the host, for what has to leave a GPU, such as ``"8GB"``; 0 for none
        quantize: int8, int4 or float8 round the weights as they load
        seed: with a prompt's place in its list it names the prompt's random numbers
        order: planned, dfs, input or decode-first
        speculate: auto guesses tokens ahead where that pays, off never
        on_too_long: what becomes of prompts longer than the context: error, skip, truncate-left
        step_tokens: most tokens in one forward pass
        max_model_len: tokens of a prompt and its answer, where less than the model's context
        machine: plan by this machine's profile instead of what ``calibrate`` measured
        revision: of a hub model
        trust_remote_code: run code that comes with the model

    Raises:
        ConfigError: an option is wrong, or the model is not there or has no room
        UnsupportedModelError: the model cannot be served
        DeviceLost: a device fails, here or in a later call: only a new LLM answers
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        dtype: str = "auto",
        device: str = "auto",
        tensor_parallel: int = 1,
        kv_memory: str | int = "auto",
        host_kv_memory: str | int = "auto",
        quantize: str | None = None,
        seed: int = 0,
        order: str = "planned",
        speculate: str = "auto",
        on_too_long: str = "error",
        step_tokens: int | None = None,
        max_model_len: int | None = None,
        machine: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if not isinstance(model, (str, os.PathLike)):
            raise TypeError(f"model must be a name or a directory, not {kind_of(model)}")
        given = {
            "model": model,
            "dtype": dtype,
            "device": device,
            "tensor_parallel": tensor_parallel,
            "kv_memory": kv_memory,
            "host_kv_memory": host_kv_memory,
            "quantize": quantize,
            "seed": seed,
            "order": order,
            "speculate": speculate,
            "on_too_long": on_too_long,
            "step_tokens": step_tokens,
            "max_model_len": max_model_len,
            "machine": machine,
            "revision": revision,
            "trust_remote_code": trust_remote_code,
        }
        options = checked(given)
        run_options = RunOptions(out="", step_tokens=options.pop("step_tokens"))
        with python_words():
            self._held = Held(load(JobOptions(input="", **options), run_options))

    def generate(
        self,
        prompts: object,
        sampling_params: Params = None,
        *,
        progress: bool | Callable[[Progress], object] = False,
    ) -> list[RequestOutput]:
        """One answer for each prompt, in their order; a bad prompt is one answer with an error.

        >>> import batchpipe as bp
        >>> from batchpipe.demo.prompt import MODEL_DIR
        >>> with bp.LLM(MODEL_DIR, dtype="float32") as llm:
        ...     answers = llm.generate(["Ticket: the kettle leaks", [1, 2, 3], {"prompt": "Hi"}])
        >>> [(answer.request_id, answer.prompt_tokens, answer.finished) for answer in answers]
        [('row-0', 5, True), ('row-1', 3, True), ('row-2', 1, True)]

        Args:
            prompts: texts, lists of token ids, or dicts as vLLM has them (``prompt``,
                ``prompt_token_ids``), also ``messages``; one prompt alone is a list of one
            sampling_params: for all prompts, or one for each
            progress: True shows it on stderr; a function is called with a `Progress` after each
                step in which prompts were answered

        Raises:
            ConfigError: the LLM is closed, or the parameters of all prompts are wrong
            OutOfMemory, DeviceLost: nothing can be computed any more
        """
        each = listed_prompts(prompts)
        with at_work(self) as loaded:
            return request_outputs(loaded, loaded.language, each, sampling_params, progress)

    def chat(
        self,
        messages: Chat | Sequence[Chat],
        sampling_params: Params = None,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        progress: bool | Callable[[Progress], object] = False,
    ) -> list[RequestOutput]:
        """One answer for each chat, in their order; a bad chat is one answer with an error.

        >>> import batchpipe as bp
        >>> from batchpipe.demo.prompt import MODEL_DIR, messages
        >>> with bp.LLM(MODEL_DIR, dtype="float32") as llm:
        ...     [answer] = llm.chat(messages("the kettle leaks, order t10023"))
        >>> answer.outputs[0].text
        '{"category":"defect","urgency":"normal","order":"T10023"}'

        Args:
            messages: a chat, a list of ``{"role": ..., "content": ...}``, or a list of chats
            sampling_params: as `generate`
            chat_template_kwargs: for the model's chat template, such as ``tools`` or
                ``enable_thinking``
            progress: as `generate`

        Raises:
            ConfigError: as `generate`
        """
        if not is_list(messages):
            raise TypeError(f"messages must be a chat or a list of chats, not {kind_of(messages)}")
        each = list(messages)
        chats = [each] if each and isinstance(each[0], Mapping) else each
        prompts = [{"messages": list(chat) if is_list(chat) else chat} for chat in chats]
        with at_work(self) as loaded:
            language = replace(loaded.language, chat_options=dict(chat_template_kwargs or {}))
            return request_outputs(loaded, language, prompts, sampling_params, progress)

    def score(
        self,
        prompts: object,
        continuations: object,
        *,
        progress: bool | Callable[[Progress], object] = False,
    ) -> list[ScoreOutput]:
        """How likely each continuation is behind the prompt in its place; nothing is drawn.

        A continuation's text becomes tokens by itself, as if the model had drawn them: a space
        between prompt and continuation belongs to the continuation.

        >>> import batchpipe as bp
        >>> from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages
        >>> chat = {"messages": messages(load_tickets()[0].text)}
        >>> with bp.LLM(MODEL_DIR, dtype="float32") as llm:
        ...     found = llm.score([chat, chat], ['{"category":"return', '{"category":"billing'])
        >>> [each.greedy for each in found]
        [True, False]

        Args:
            prompts: as `generate`
            continuations: texts or lists of token ids, one for each prompt
            progress: as `generate`

        Raises:
            ConfigError: as `generate`, or there are not as many of both
        """
        each, more = listed_prompts(prompts), listed_prompts(continuations)
        with at_work(self) as loaded:
            return score_outputs(loaded, each, more, progress)

    @property
    def model(self) -> str:
        """The name or directory of the model."""
        return self._held.name

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, of transformers."""
        with at_work(self) as loaded:
            return loaded.language.tokenizer

    @property
    def closed(self) -> bool:
        """True once the model is gone."""
        return self._held.closed

    def close(self) -> None:
        """The model's memory is free, once a call under way has ended; a closed LLM stays so."""
        self._held.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LLM({self.model!r}{', closed' if self.closed else ''})"


def at_work(llm: LLM) -> AbstractContextManager[Loaded]:
    """The model of the LLM, for one call at a time; see `Held.at_work`."""
    return llm._held.at_work()
