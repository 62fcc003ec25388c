"""What a model reads for each row of a step: its templates filled, as token ids of that model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from batchpipe.job.fit import fit
from batchpipe.job.language import Language
from batchpipe.job.row_prompts import tokenized
from batchpipe.planner.query.graph import Operator
from batchpipe.planner.request import Sampling
from batchpipe.rows.messages import BadMessages, Message, parse_messages
from batchpipe.rows.prompts import BadPrompt, PromptKind, PromptTable, prompt_text
from batchpipe.rows.template import RenderError
from batchpipe.workflow.lowering.expressions import Text
from batchpipe.workflow.lowering.readings import Reading, text_keys
from batchpipe.workflow.steps import Asked

TokenIds = npt.NDArray[np.int32]
Said = str | list[Message]

_COLUMN = "⟨"  # with which a canonical text tells that a row's value follows


class RowFault(ValueError):
    """The row cannot be asked; the message is the sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What a model reads for one row, and how it answers within its context."""

    token_ids: TokenIds
    sampling: Sampling


class Wording:
    """The templates of one step in the order in which the plan has them."""

    def __init__(self, step: Asked, operator: Operator, readings: Mapping[str, Reading]) -> None:
        texts = [cast(Text, readings[key]) for key in text_keys(step)]
        self._roles = [role for role, _ in step.messages]
        self._texts = [texts[at] for at in operator.block_order or range(len(texts))]

    def said(self, row: Mapping[str, Any]) -> Said:
        """The row's text, or its messages.

        Raises:
            RowFault: a template fails for the row, or leaves nothing
        """
        try:
            rendered = [text.render(row) for text in self._texts]
            if self._roles:
                return parse_messages(self._chat(rendered), from_arrow=False)
            return prompt_text("the rendered template", "".join(rendered))
        except (RenderError, BadPrompt) as bad:
            raise RowFault(str(bad)) from bad
        except BadMessages as bad:
            raise RowFault(f"messages{bad}") from bad

    def head(self, language: Language) -> TokenIds:
        """Tokens with which every row's prompt begins: those before the first value."""
        numbers: dict[str, int] = {}

        def number(column: str) -> int:
            return numbers.setdefault(column, len(numbers))

        parts = [text.canonical(number) for text in self._texts]
        text = language.render_chat(self._chat(parts)) if self._roles else "".join(parts)
        same = text.partition(_COLUMN)[0]
        [ids] = language.tokenize([same], special_tokens=not self._roles)
        # The last may be another one with what follows it.
        return np.asarray(ids[:-1] if same != text else ids, dtype=np.int32)

    def _chat(self, parts: Sequence[str]) -> list[Message]:
        pairs = zip(self._roles, parts, strict=True)
        return [{"role": role, "content": content} for role, content in pairs]


def prompts_of(
    said: Sequence[Said], sampling: Sampling, language: Language
) -> list[Prompt | RowFault]:
    """What the model reads for each of these rows of a step, or why it cannot."""
    found: list[Prompt | RowFault] = [RowFault("the prompt has no tokens") for _ in said]
    kinds: dict[PromptKind, bool] = {"text": False, "messages": True}
    for kind, is_chat in kinds.items():
        some = [place for place, each in enumerate(said) if isinstance(each, list) == is_chat]
        if some:
            for place, made in _prompts(kind, said, some, sampling, language).items():
                found[place] = made
    return found


def _prompts(
    kind: PromptKind,
    said: Sequence[Said],
    places: list[int],
    sampling: Sampling,
    language: Language,
) -> dict[int, Prompt | RowFault]:
    texts: Any = [said[place] for place in places]
    faults: dict[int, str] = {}
    table = PromptTable(kind, np.array(places, dtype=np.int64), texts, {})
    asked, prompts = tokenized(table, faults, language)
    fitted = fit(
        prompts,
        [sampling] * len(prompts),
        context=language.context,
        vocab=language.vocab,
        on_too_long="error",
    )
    made: dict[int, Prompt | RowFault] = {p: RowFault(why) for p, why in faults.items()}
    made |= {
        int(asked[place]): RowFault(_without_option(why)) for place, why in fitted.faults.items()
    }
    for nth, place in enumerate(asked[fitted.kept].tolist()):
        made[place] = Prompt(fitted.prompts[nth], fitted.samplings[nth])
    return made


def _without_option(why: str) -> str:
    """The sentence without an option that workflows do not have."""
    return why.partition(", or use --on-too-long")[0]
