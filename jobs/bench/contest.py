"""Who takes part in `engines.py`: how each contender is called, and the models that they share."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whole_process import measure

HERE = Path(__file__).parent
MODELS = HERE / "models.py"
PROMPTS_OF_A_FILE = 500  # that the tokenizer learns from
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine with an environment of its own.

    ``convert`` makes its model from ours; words in braces
    stand for what they say. Empty if it reads ours as it is.
    """

    convert: str = ""
    file: str = ""  # or folder: the converted model's name
    dtypes: tuple[str, ...] = ("float32", "bfloat16")


PEERS = {
    "vllm": Peer(),
    "openvino": Peer(
        "{bin}/optimum-cli export openvino --task text-generation-with-past --weight-format fp32"
        " --model {model} {out}",
        "openvino",
    ),
    "llamacpp": Peer("{python} {here}/peers/gguf_file.py {model} {out} {dtype}", "{dtype}.gguf"),
    "onnxruntime": Peer(
        "{python} -m onnxruntime_genai.models.builder -p fp32 -e cpu"
        " -i {model} -o {out} -c {out}-cache",
        "onnxruntime",
        ("float32",),  # its CPU kernels know no bfloat16
    ),
}
FORMS = ("plain", "tuned")
TRANSFORMERS = {
    "generate plain": ("generate", "--batch-size", "1"),
    "generate tuned": ("generate", "--batch-size", "16"),
    "generate_batch plain": ("generate_batch", "--as-documented"),
    "generate_batch tuned": ("generate_batch",),
}
CONTENDERS = (
    "batchpipe",
    *(f"{peer} {form}" for peer in PEERS for form in FORMS),
    *TRANSFORMERS,
)


@dataclass(frozen=True, slots=True)
class Case:
    """What every contender is given."""

    job: Path
    model: Path
    dtype: str
    max_tokens: int
    threads: int
    kv_tokens: int = 0  # that KV memory holds; 0 for no limit
    # Of peers alone:
    environments: Path = Path("peers")
    longest_tokens: int = 0  # of a prompt and its answer
    all_tokens: int = 0  # distinct ones of the prompts, and those of the answers
    batch_tokens: int = 0  # of tuned peers; 0 for their scripts' own
    batch_rows: int = 0


def command(contender: str, case: Case, out: Path) -> list[str]:
    """The command line that answers the case with the contender."""
    limits = ["--max-tokens", str(case.max_tokens), "--dtype", case.dtype]
    if contender == "batchpipe":
        run = [sys.executable, "-m", "batchpipe", "run", str(case.job), "-m", str(case.model)]
        if case.kv_tokens:
            limits += ["--kv-memory", str(case.kv_tokens * kv_bytes_of_a_token(case))]
        flags = ["--ignore-eos", "--with-token-ids", "--overwrite", "--json"]
        return [*run, "-o", str(out), *limits, *flags]
    files = ["--job", str(case.job), "--model", str(case.model), "--out", str(out)]
    if contender in TRANSFORMERS:
        way, *options = TRANSFORMERS[contender]
        return [sys.executable, str(HERE / "baselines.py"), way, *files, *limits, *options]
    peer, form = contender.split()
    script = HERE / "peers" / f"with_{peer}.py"
    numbers = {
        "--longest-tokens": case.longest_tokens,
        "--kv-tokens": case.kv_tokens or (case.all_tokens if form == "tuned" else 0),
        "--threads": case.threads,
        "--batch-tokens": case.batch_tokens,
        "--batch-rows": case.batch_rows,
    }
    options = [word for name, value in numbers.items() for word in (name, str(value))]
    engine_model = ["--engine-model", str(converted(peer, case)), "--form", form]
    return [str(_python(case, peer)), str(script), *files, *engine_model, *limits, *options]


def environment_of(case: Case) -> dict[str, str]:
    """The variables that all contenders run with."""
    return {"OMP_NUM_THREADS": str(case.threads), "TOKENIZERS_PARALLELISM": "true"}


def _python(case: Case, peer: str) -> Path:
    return case.environments / peer / "bin" / "python"


def why_absent(contender: str, case: Case) -> str:
    """The reason that a contender cannot take part, or an empty text."""
    peer = contender.split()[0]
    if peer not in PEERS:
        return ""
    if case.dtype not in PEERS[peer].dtypes:
        return f"has no {case.dtype} on a CPU"
    if not _python(case, peer).exists():
        return f"is not installed: bash jobs/bench/peers/install.sh {case.environments} {peer}"
    return ""


def converted(peer: str, case: Case) -> Path:
    """The peer's form of the model, made where it is missing."""
    if not PEERS[peer].convert:
        return case.model
    engines = case.model.with_name(f"{case.model.name}-engines")
    target = engines / PEERS[peer].file.format(dtype=case.dtype)
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        made = Path(name) / target.name  # moved when whole: a half-made model is made anew
        words = {
            "here": HERE,
            "python": _python(case, peer),
            "bin": _python(case, peer).parent,
            "model": case.model,
            "out": made,
            "dtype": case.dtype,
        }
        convert = [word.format(**words) for word in PEERS[peer].convert.split()]
        measure(convert, Path(name), speaks=False)
        engines.mkdir(exist_ok=True)
        shutil.move(made, target)
    return target


def kv_bytes_of_a_token(case: Case) -> int:
    """What a token's keys and values take in all layers."""
    config = json.loads((case.model / "config.json").read_text())
    heads = 2 * config["num_hidden_layers"] * config["num_key_value_heads"]
    return int(heads * config["head_dim"] * DTYPE_BYTES[case.dtype])


def cached_model(
    shape: str, learned_from: list[Path], cache: Path, options: Sequence[str] = ()
) -> Path:
    """The folder of a model of the shape, its tokenizer learned from the files' prompts.

    ``options`` are further ones of ``models.py make``.
    """
    digest = hashlib.sha256(MODELS.read_bytes())
    for path in learned_from:
        digest.update(path.read_bytes())
    digest.update(" ".join(options).encode())
    folder = cache / f"{shape}-{digest.hexdigest()[:12]}"
    if not (folder / "tokenizer.json").exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        most = ["--most-prompts", str(PROMPTS_OF_A_FILE), *options]
        words = [sys.executable, str(MODELS), "make", shape, *map(str, learned_from), str(folder)]
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            measure([*words, *most], Path(name))
    return folder


def counted(model: Path, job: Path) -> dict[str, Any]:
    """The job's tokens: all, distinct, of the longest prompt; and its duplicates."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        words = [sys.executable, str(MODELS), "count", str(model), str(job)]
        return measure(words, Path(name)).summary
