"""The commands for batch files: `run-batch`, as vLLM's users know it, and `convert`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from batchpipe.command_options import DEVICE_OPTION, HOST_KV_OPTION, tell
from batchpipe.config import DTYPES, JobOptions, RunOptions
from batchpipe.errors import ConfigError

READS = ("openai", "anthropic", "mistral", "parquet", "jsonl")
WRITES = ("openai", "vllm", "anthropic", "mistral", "parquet", "jsonl")

DTYPE_NAMES = {**{name: name for name in DTYPES}, "half": "float16", "float": "float32"}

# Flags of `vllm run-batch` that there is another word for here.
INSTEAD = {
    "--gpu-memory-utilization": "give --kv-memory, such as 40GB",
    "--kv-cache-memory-bytes": "give --kv-memory, such as 40GB",
    "--swap-space": "give --host-kv-memory, such as 8GB",
    "--max-num-batched-tokens": "give --step-tokens",
    "--max-num-seqs": "memory, not a number of requests, limits a step",
    "--enable-prefix-caching": "prefixes are always shared",
    "--no-enable-prefix-caching": "prefixes are always shared",
    "--enable-chunked-prefill": "prompts are always cut as steps need it",
    "--scheduling-policy": "give --order",
    "--quantization": "give --quantize to `batchpipe run`, which reads this file too",
    "--tensor-parallel-size": "`batchpipe run` reads this file too, and has --tensor-parallel",
    "-tp": "`batchpipe run` reads this file too, and has --tensor-parallel",
    "--pipeline-parallel-size": "layers stay together; `batchpipe run` has --tensor-parallel",
    "--data-parallel-size": "`batchpipe run` has --workers",
    "--enable-lora": "adapters are not served; merge them into the weights",
    "--lora-modules": "adapters are not served; merge them into the weights",
    "--enable-metrics": "`batchpipe status OUT.run` tells how far a run is, from outside too",
    "--speculative-config": "tokens are guessed ahead where that pays, without a second model",
}


@click.command(
    "run-batch",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="Exit codes are those of `batchpipe run`: 3 where lines failed.",
)
@click.option("-i", "--input-file", required=True, help="OpenAI batch lines (.jsonl, .gz, .zst).")
@click.option("-o", "--output-file", required=True, help="Their answers; .parquet for a table.")
@click.option("-m", "--model", required=True, help="Hub id or local directory.")
@click.option(
    "--served-model-name",
    multiple=True,
    help="What the lines call the model, if not by --model; may be repeated.",
)
@click.option("--output-tmp-dir", help="Where the run keeps its state [default: beside OUT].")
@click.option("--max-model-len", type=int, help="Most tokens of prompt and answer together.")
@click.option("--dtype", type=click.Choice(list(DTYPE_NAMES)), default="auto", show_default=True)
@DEVICE_OPTION
@click.option("--kv-memory", default="auto", show_default=True, help="Memory for KV, e.g. 4GB.")
@HOST_KV_OPTION
@click.option("--step-tokens", type=click.IntRange(min=1), help="Most tokens in one forward pass.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--revision", help="Revision of a hub model.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
@click.option("--max-errors", help="Failed lines tolerated: a count or 5%.")
@click.option("--overwrite", is_flag=True, help="Discard OUT and what the run has kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON summary on stdout.")
@click.pass_context
def run_batch(context: click.Context, /, **given: Any) -> None:
    """Answer a file of OpenAI batch lines, with `vllm run-batch`'s flags.

    The lines are streamed, not held; a stopped run goes on by the same command. Lines ask for
    /v1/chat/completions or /v1/completions; one that cannot be answered has its error in its place.
    """
    _refuse_engine_flags(context.args)
    from batchpipe.running.job import run as run_job

    out, folder = given["output_file"], given["output_tmp_dir"]
    run_dir = None if folder is None else os.path.join(folder, f"{os.path.basename(out)}.run")
    options = JobOptions(
        input=given["input_file"],
        batch_lines=True,
        served_model_names=list(given["served_model_name"]) or None,
        **{name: given[name] for name in JobOptions.__dataclass_fields__ if name in given}
        | {"dtype": DTYPE_NAMES[given["dtype"]]},
    )
    own = {name: given[name] for name in ("overwrite", "max_errors", "step_tokens")}
    summary = run_job(options, RunOptions(out=out, run_dir=run_dir, **own))
    tell(summary, given["as_json"])
    sys.exit(summary.exit_code)


@click.command()
@click.argument("input")
@click.argument("out")
@click.option("--from", "source", type=click.Choice(READS), help="What INPUT is [by its fields].")
@click.option("--to", type=click.Choice(WRITES), help="What OUT is [by its ending].")
@click.option("--model", help="The model of every request, whatever INPUT names.")
@click.option("--max-tokens", type=int, help="For requests that say nothing of it.")
@click.option("--drop-unsupported", is_flag=True, help="Leave out what OUT's format cannot say.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
@click.option("--json", "as_json", is_flag=True, help="One JSON summary on stdout.")
def convert(input: str, out: str, source: str | None, to: str | None, **given: Any) -> None:
    """Rewrite a batch file for another API, or as a job file; batch results as a table.

    Formats are OpenAI's (vllm: with vLLM's own parameters), Anthropic's and Mistral's batch lines,
    and job files (parquet, jsonl). What OUT's format cannot say is an error that names the line.
    """
    from batchpipe.rows.batch_files.convert import ConvertOptions, convert_file

    as_json = given.pop("as_json")
    done = convert_file(ConvertOptions(input, out, source, to, **given))
    tell(done, as_json)


def _refuse_engine_flags(arguments: list[str]) -> None:
    """`ConfigError` for the first flag that is vLLM's alone, with what to do instead."""
    if not arguments:
        return
    flag = arguments[0].partition("=")[0]
    if not flag.startswith("-"):
        raise ConfigError(f"{flag} stands alone: give the input by -i and the output by -o")
    reason = INSTEAD.get(flag.replace("_", "-"), "`batchpipe run-batch --help` lists what there is")
    raise ConfigError(f"{flag} is no option here: {reason}")
