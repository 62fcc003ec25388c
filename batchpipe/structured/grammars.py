"""Constraints compiled for one model's tokens, each once, ahead of need. Alone imports xgrammar."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
import xgrammar
from torch import Tensor

from batchpipe.planner.request import Constraint
from batchpipe.rows.words import one_line
from batchpipe.structured.bitmasks import apply_short_masks, mask_of
from batchpipe.structured.bounds import with_bounded_integers
from batchpipe.structured.constraint import labels_of

# Between two parts of JSON; with no bound a model may write blanks until its tokens run out.
MOST_WHITESPACE = 8

COMPILED_AHEAD = 32  # with 150,000 tokens a schema may take megabytes and tenths of a second

_CONTROL = re.compile(rb"[\x00-\x09\x0b\x0c\x0e-\x1f]")  # but not the ends of lines

_PLACE_IN_SOURCE = re.compile(r"^\[[\d:]+\] \S+: ")  # what xgrammar writes before its sentences


def grammar_fault(constraint: Constraint) -> str | None:
    """Why xgrammar cannot compile this, in its words; None where it can."""
    try:
        _grammar(constraint)
    except (RuntimeError, ValueError) as error:
        said = _PLACE_IN_SOURCE.sub("", str(error).strip())
        return f"the {constraint.kind} cannot be compiled: {one_line(said)}"
    return None


def matches(constraint: Constraint, text: str) -> bool:
    """Whether the text is all of what the constraint allows, no more and no less."""
    matcher = xgrammar.GrammarMatcher(_compiled_alone(constraint))
    return bool(matcher.accept_string(text) and matcher.is_completed())


class Grammars:
    """The compiled constraints of the prompts that are still to be answered.

    Args:
        tokenizer: the model's
        vocab: scores that the model gives for each next token
        end_token_ids: what may end an answer, and only where its grammar may end
        asked: the constraints of all prompts, in the order in which they are to run
    """

    def __init__(
        self,
        tokenizer: Any,  # transformers PreTrainedTokenizerBase
        vocab: int,
        end_token_ids: Collection[int],
        asked: Iterable[Constraint],
    ) -> None:
        assert end_token_ids, "a grammar needs a token that ends an answer"
        self.vocab = vocab
        self.ends = mask_of(end_token_ids, vocab)
        self._uses = Counter(asked)
        self._tokenizer, self._end_token_ids = tokenizer, sorted(end_token_ids)
        self._compilers: dict[bool, xgrammar.GrammarCompiler] = {}  # by whether they are for JSON
        self._silent: dict[bool, frozenset[int]] = {}  # tokens that spell nothing to a compiler
        self._filler = xgrammar.BatchGrammarMatcher()
        self._coming: Iterator[Constraint] = iter(list(self._uses))
        self._compiled: dict[Constraint, Future[Any]] = {}
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammars")
        for _ in range(COMPILED_AHEAD):
            self._compile_next()

    def matcher(self, constraint: Constraint) -> Any:  # xgrammar.GrammarMatcher
        """A new matcher at the beginning of an answer; waits where it is not compiled yet."""
        if constraint not in self._compiled:
            self._compiled[constraint] = self._pool.submit(self._compile, constraint)
        return xgrammar.GrammarMatcher(self._compiled[constraint].result())

    def expect(self, constraint: Constraint) -> None:
        """One prompt more asks for it."""
        self._uses[constraint] += 1

    def may_say(self, constraint: Constraint, token: int) -> bool:
        """Whether the token spells anything; of one that does not a matcher complains on stderr.

        There is a matcher for the constraint.
        """
        return token not in self._silent[constraint.kind == "schema"]

    def answered(self, constraint: Constraint) -> None:
        """One of the prompts that ask for it has its answer; after the last it is forgotten."""
        self._uses[constraint] -= 1
        if not self._uses[constraint]:
            del self._uses[constraint]
            self._compiled.pop(constraint, None)
            self._compile_next()

    def close(self) -> None:
        """Nothing more is compiled ahead."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def full_masks(self, rows: int) -> Tensor:  # [rows, vocab / 32] int32, on the CPU
        """Masks that allow every token, a bit each."""
        masks: Tensor = xgrammar.allocate_token_bitmask(rows, self.vocab)
        return masks

    def fill(self, matchers: list[Any], masks: Tensor, rows: list[int]) -> None:
        """The masks of these rows allow what these matchers allow next; in several threads."""
        self._filler.batch_fill_next_token_bitmask(matchers, masks, rows)

    def apply(
        self,
        masks: Tensor,  # [rows, vocab / 32] int32, on the CPU
        logits: Tensor,  # [rows, vocab]
        rows: list[int],
    ) -> set[int]:
        """In these rows, what their masks do not allow has a score of -inf.

        Returns:
            The rows whose masks allow many tokens; on a GPU none, for nobody looks at them there.
        """
        if logits.device.type != "cpu":  # no more than these rows is copied
            few = masks[rows].to(logits.device, non_blocking=True)
            masks = few.new_full(masks.shape, -1)
            masks[torch.tensor(rows, device=logits.device)] = few
            xgrammar.apply_token_bitmask_inplace(logits, masks, indices=rows)
            return set()
        wide = apply_short_masks(masks, logits, rows)
        if wide:
            xgrammar.apply_token_bitmask_inplace(logits, masks, indices=wide)
        return set(wide)

    def _compile_next(self) -> None:
        for constraint in self._coming:
            if constraint not in self._compiled and self._uses[constraint]:
                self._compiled[constraint] = self._pool.submit(self._compile, constraint)
                return

    def _compile(self, constraint: Constraint) -> Any:
        for_json = constraint.kind == "schema"
        if for_json not in self._compilers:
            tokens = _vocabulary(self._tokenizer, self.vocab, self._end_token_ids, for_json)
            self._silent[for_json] = frozenset(tokens.special_token_ids) - {*self._end_token_ids}
            self._compilers[for_json] = _compiler(tokens)
        return self._compilers[for_json].compile_grammar(_grammar(constraint))


def _compiler(tokens: xgrammar.TokenizerInfo) -> xgrammar.GrammarCompiler:
    threads = max(1, (os.cpu_count() or 1) // 2)
    return xgrammar.GrammarCompiler(tokens, max_threads=threads, cache_enabled=False)


def _grammar(constraint: Constraint) -> xgrammar.Grammar:
    return _GRAMMARS[constraint.kind](constraint)


@lru_cache(maxsize=1024)
def _compiled_alone(constraint: Constraint) -> xgrammar.CompiledGrammar:
    """For texts, which need no tokens."""
    no_tokens = xgrammar.TokenizerInfo(["\n"], stop_token_ids=[0])
    return _compiler(no_tokens).compile_grammar(_grammar(constraint))


def _of_choices(constraint: Constraint) -> xgrammar.Grammar:
    literals = (_literal(label) for label in labels_of(constraint))
    return xgrammar.Grammar.from_ebnf(f"root ::= {' | '.join(literals)}")


def _literal(text: str) -> str:
    """The text between quotes, every character as its number: none has a meaning of its own."""
    return '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'


def _of_schema(constraint: Constraint) -> xgrammar.Grammar:
    schema = json.dumps(with_bounded_integers(json.loads(constraint.text)))
    return xgrammar.Grammar.from_json_schema(schema, max_whitespace_cnt=MOST_WHITESPACE)


_GRAMMARS: Mapping[str, Callable[[Constraint], xgrammar.Grammar]] = {
    "choices": _of_choices,
    "schema": _of_schema,
    "regex": lambda constraint: xgrammar.Grammar.from_regex(constraint.text),
    "grammar": lambda constraint: xgrammar.Grammar.from_ebnf(constraint.text),
}


def _vocabulary(
    tokenizer: Any, vocab: int, ends: list[int], for_json: bool
) -> xgrammar.TokenizerInfo:
    """What each token spells; what no answer may hold spells nothing.

    That are special tokens, whose names xgrammar takes for text. And ``for_json`` it is what has
    a control character: xgrammar lets texts with a `maxLength` have them, and JSON does not.
    """
    found = xgrammar.TokenizerInfo.from_huggingface(
        tokenizer, vocab_size=vocab, stop_token_ids=ends
    )
    silent = set(tokenizer.all_special_ids)
    if for_json:
        texts = enumerate(found.decoded_vocab)
        silent |= {number for number, text in texts if _CONTROL.search(text)}
    spelled = [""] * vocab
    for token, number in tokenizer.get_vocab().items():
        if number < vocab and number not in silent:
            spelled[number] = token
    return xgrammar.TokenizerInfo(
        spelled,
        vocab_type=found.vocab_type,
        vocab_size=vocab,
        stop_token_ids=ends,
        add_prefix_space=found.add_prefix_space,
    )
