"""An LLM is usable again and again, by threads, after an interruption; closed, it is gone."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
from transformers import LlamaModel

import batchpipe as bp
from batchpipe.engine.attention import PagedAttention

TEXTS = [f"Question {number}: which ticket is urgent? Answer:" for number in range(6)]
PARAMS = bp.SamplingParams(max_tokens=6)


@pytest.fixture(autouse=True)
def _thawed() -> None:
    """Commands that other tests ran here have taken the process for their own."""
    gc.unfreeze()


def outputs(llm: bp.LLM) -> list[str | None]:
    return [answer.output for answer in llm.generate(TEXTS, PARAMS)]


def key_value_memories() -> list[PagedAttention]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is PagedAttention]


def llama_models() -> list[LlamaModel]:
    return [each for each in gc.get_objects() if type(each) is LlamaModel]


def test_two_models_and_two_calls_in_one_process(model: Path) -> None:
    with bp.LLM(model) as one, bp.LLM(model) as two:
        first = outputs(one)
        assert outputs(two) == outputs(one) == outputs(two) == first


def test_keys_and_values_are_gone_after_a_call_and_the_weights_after_closing(model: Path) -> None:
    others = {id(each) for each in llama_models()}
    llm = bp.LLM(model)
    outputs(llm)
    assert key_value_memories() == []
    [weights] = [weakref.ref(each) for each in llama_models() if id(each) not in others]
    llm.close()
    assert llm.closed
    assert weights() is None


def test_a_closed_llm_says_so(model: Path) -> None:
    with bp.LLM(model) as llm:
        pass
    llm.close()
    assert repr(llm) == f"LLM({str(model)!r}, closed)"
    for call in (lambda: llm.generate(["a"]), lambda: llm.chat([]), lambda: llm.tokenizer):
        with pytest.raises(bp.ConfigError, match=r"the LLM of .* is closed; make a new one"):
            call()


def test_threads_share_an_llm(llm: bp.LLM) -> None:
    alone = outputs(llm)
    found: list[list[str | None]] = []
    threads = [threading.Thread(target=lambda: found.append(outputs(llm))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 3


@pytest.mark.parametrize("step", [0, 1])
def test_an_interrupted_llm_answers_again_and_holds_no_memory(llm: bp.LLM, step: int) -> None:
    alone, seen = outputs(llm), []

    def interrupt(progress: bp.Progress) -> None:
        seen.append(progress)
        if len(seen) > step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        llm.generate(TEXTS, PARAMS, progress=interrupt)
    assert key_value_memories() == [], kept
    assert outputs(llm) == alone


def test_ctrl_c_amid_a_forward_pass_leaves_a_usable_llm(
    llm: bp.LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = outputs(llm)
    attend, calls = PagedAttention.attend, []

    def interrupted(self: PagedAttention, *given: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return attend(self, *given, **named)

    monkeypatch.setattr(PagedAttention, "attend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(TEXTS, PARAMS)
    monkeypatch.undo()
    assert outputs(llm) == alone


def test_progress_tells_every_row_once_it_is_done(llm: bp.LLM) -> None:
    told: list[bp.Progress] = []
    llm.generate([*TEXTS, ""], PARAMS, progress=told.append)
    assert [each.done for each in told] == sorted({each.done for each in told})
    assert (told[0].done, told[0].done_before) == (1, 1), "the bad prompt is done at once"
    assert told[-1].done == told[-1].total == len(TEXTS) + 1
    assert told[-1].completion_tokens == 36
    assert 0 < told[-1].reused_share < 1
    assert told[-1].seconds_left == 0


def test_nothing_is_on_stderr_unless_it_is_asked_for(
    llm: bp.LLM, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs(llm)
    assert capsys.readouterr() == ("", "")
    llm.generate(TEXTS, PARAMS, progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert "6/6 rows" in told.err


def test_a_progress_function_cannot_call_or_close_its_llm(llm: bp.LLM) -> None:
    alone = outputs(llm)
    for act in (lambda _: llm.generate(TEXTS), lambda _: llm.close()):
        with pytest.raises(bp.ConfigError, match="by its own progress function"):
            llm.generate(TEXTS, PARAMS, progress=act)
    assert outputs(llm) == alone


RESIDENT = """
import sys
import batchpipe as bp

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024

with bp.LLM(sys.argv[1]) as llm:
    llm.generate(["Answer:"])
base = resident()
sizes = []
for _ in range(2):
    with bp.LLM(sys.argv[1]) as llm:
        llm.generate(["Answer:"])
        loaded = resident()
    sizes.append((loaded - base, resident() - base))
print(sizes)
"""


def test_closing_gives_the_weights_memory_back(tmp_path: Path) -> None:
    """Of a model with 64 MB of weights, opened and closed again and again."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from batchpipe.demo.prompt import MODEL_DIR

    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=1,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((MODEL_DIR / name).read_bytes())
    ran = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    for loaded, closed in eval(ran.stdout):
        assert loaded > 30e6
        assert closed < 10e6
