"""The demo's tickets, prompt and scores; the files that ship load."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from batchpipe.demo import prompt
from batchpipe.demo.prompt import CATEGORIES, NO_ORDER, URGENCIES, Label

JOB_DIR = Path(__file__).parents[2] / "jobs" / "demo"
sys.path.insert(0, str(JOB_DIR))

from tickets import tickets  # noqa: E402

labels = st.builds(
    Label,
    st.sampled_from(CATEGORIES),
    st.sampled_from(URGENCIES),
    st.from_regex(r"[A-Z][0-9]{5}", fullmatch=True) | st.just(NO_ORDER),
)


def test_same_seed_gives_the_same_tickets() -> None:
    assert list(islice(tickets(7), 200)) == list(islice(tickets(7), 200))
    assert list(islice(tickets(7), 20)) != list(islice(tickets(8), 20))


def test_shipped_tickets_are_the_generators_first_500() -> None:
    shipped = [(ticket.text, ticket.label) for ticket in prompt.load_tickets()]
    assert shipped == list(islice(tickets(1), 500))


def test_training_never_yields_a_held_out_text() -> None:
    held_out = frozenset(ticket.text for ticket in prompt.load_tickets())
    assert len(held_out) == 500
    # The held-out seed itself, the hardest case: its own first 500 texts must be skipped.
    for seed in (1, 3):
        assert all(text not in held_out for text, _ in islice(tickets(seed, held_out), 2000))


def test_the_text_of_a_ticket_holds_its_order_number() -> None:
    for text, label in islice(tickets(11), 1000):
        if label.order_number != NO_ORDER:
            assert label.order_number.lower() in text.lower()


def test_every_class_is_held_out_often_enough_to_measure() -> None:
    shipped = [ticket.label for ticket in prompt.load_tickets()]
    for category in CATEGORIES:
        assert sum(label.category == category for label in shipped) >= 25
    for urgency in URGENCIES:
        assert sum(label.urgency == urgency for label in shipped) >= 75
    assert 75 <= sum(label.order_number == NO_ORDER for label in shipped) <= 250


def test_request_ids_are_unique() -> None:
    shipped = prompt.load_tickets()
    assert len({ticket.request_id for ticket in shipped}) == len(shipped)


@given(labels)
def test_parse_reads_back_what_answer_writes(label: Label) -> None:
    assert prompt.parse_label(prompt.answer(label)) == label


@pytest.mark.parametrize(
    "output",
    [
        "",
        "billing",
        "[]",
        '{"category":"billing","urgency":"high"}',
        '{"category":"billing","urgency":"high","order":"A1234"}',
        '{"category":"billing","urgency":"high","order":48213}',
        '{"category":"billing","urgency":"soon","order":"none"}',
        '{"category":["billing"],"urgency":"high","order":"none"}',
        '{"category":"billing","urgency":"high","order":"A48213"} and more',
    ],
)
def test_an_answer_that_is_no_label_parses_to_none(output: str) -> None:
    assert prompt.parse_label(output) is None


def test_score_counts_each_field_alone_and_all_together() -> None:
    truth = Label("billing", "high", "A48213")
    outputs = [
        prompt.answer(truth),
        prompt.answer(replace(truth, category="defect")),
        prompt.answer(replace(truth, order_number="A48214")),
        "no label",
    ]
    scores = prompt.score(outputs, [truth] * 4)
    assert (scores.tickets, scores.invalid) == (4, 1)
    assert (scores.category, scores.urgency, scores.order_number) == (0.5, 0.75, 0.5)
    assert scores.overall == 0.25


def test_score_refuses_lengths_that_differ() -> None:
    with pytest.raises(ValueError, match="1 outputs but 0 references"):
        prompt.score(["x"], [])


def test_the_examples_of_the_prompt_are_valid_and_not_held_out() -> None:
    texts = {ticket.text for ticket in prompt.load_tickets()}
    assert {label.category for _, label in prompt.EXAMPLES} == set(CATEGORIES)
    for text, label in prompt.EXAMPLES:
        assert prompt.parse_label(prompt.answer(label)) == label
        assert text not in texts


def test_the_shipped_model_loads_and_all_prompts_share_a_long_prefix() -> None:
    tokenizer = AutoTokenizer.from_pretrained(prompt.MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(prompt.MODEL_DIR)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    prompts = [
        tokenizer.apply_chat_template(
            prompt.messages(ticket.text), add_generation_prompt=True, return_dict=False
        )
        for ticket in prompt.load_tickets()[:20]
    ]
    shared = next(
        at for at, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1
    )
    assert 600 <= shared <= 900
    assert max(map(len, prompts)) <= model.config.max_position_embeddings


def test_the_shipped_files_stay_small() -> None:
    assert sum(file.stat().st_size for file in prompt.MODEL_DIR.iterdir()) <= 12_000_000
    config = json.loads((prompt.MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_the_demos_prompt_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, batchpipe.demo.prompt\n"
        "print(sorted({'torch', 'transformers'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
