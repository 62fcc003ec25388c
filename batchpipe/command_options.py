"""What several commands share: their options, the job that these describe, and how they report."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from batchpipe.config import DEVICES, DTYPES, ENGINES, ON_TOO_LONG, QUANTIZE, SPECULATE, JobOptions
from batchpipe.errors import ConfigError
from batchpipe.planner.order import ORDERS
from batchpipe.structured.options import file_or_text

Command = TypeVar("Command", bound=Callable[..., Any])


def _content(context: click.Context, option: click.Parameter, given: str | None) -> str | None:
    return None if given is None else file_or_text(str(option.name), given)


DEVICE_OPTION = click.option(
    "--device", type=click.Choice(DEVICES), default=DEVICES[0], show_default=True
)

DTYPE_OPTIONS = (
    click.option("--dtype", type=click.Choice(DTYPES), default="auto", show_default=True),
    click.option(
        "--quantize",
        type=click.Choice(QUANTIZE),
        help="Round the weights as they load; needs batchpipe[quant] [default: not].",
    ),
)

SAMPLING_OPTIONS = (
    click.option("--max-tokens", type=int, help="Most tokens of an answer [default: 256]."),
    click.option("--temperature", type=float, help="0 is greedy."),
    click.option("--top-p", type=float),
    click.option("--top-k", type=int),
    click.option("--min-p", type=float),
    click.option("--repetition-penalty", type=float),
    click.option("--n", type=int, help="Answers per row; all of them go to `outputs`."),
    click.option("--stop", multiple=True, help="Text that ends an answer; may be repeated."),
    click.option("--stop-token-ids", type=int, multiple=True, help="Token that ends an answer."),
    click.option("--ignore-eos", is_flag=True, default=None, help="Answer up to --max-tokens."),
    click.option(
        "--logprobs",
        type=int,
        help="Tell how likely each token was, and the N likeliest beside it (0: it alone).",
    ),
    click.option(
        "--prompt-logprobs",
        type=int,
        help="The same of the prompt's tokens; with --max-tokens 0 nothing else is done.",
    ),
    click.option("--choices", help="The answer is one of these: 'a,b,c', or a JSON list."),
    click.option(
        "--schema",
        callback=_content,
        help="The answer is JSON: a JSON Schema or its FILE, or fields such as 'name, age int'.",
    ),
    click.option("--regex", help="The whole answer matches this."),
    click.option(
        "--grammar",
        callback=_content,
        help="The answer is what the GBNF grammar in this FILE produces.",
    ),
)

ENGINE_OPTIONS = (
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default=ENGINES[0],
        show_default=True,
        help="What answers: batchpipe itself, vLLM in this process, or a server's OpenAI API.",
    ),
    click.option("--base-url", help="The server of --engine openai: http://localhost:8000/v1."),
    click.option(
        "--served-model",
        help="What the server calls the model [default: the only one that it lists, else -m].",
    ),
    click.option("--api-key-env", help="Name of the environment variable with the server's key."),
    click.option("--concurrency", type=int, help="Most requests under way at once [default: 64]."),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="So many Ray workers with the model each: one per GPU, or per share of the CPUs.",
    ),
    click.option(
        "--ray-address",
        help="The Ray cluster of --workers: auto, or host:port [default: one on this machine].",
    ),
)

HOST_KV_OPTION = click.option(
    "--host-kv-memory",
    default="auto",
    show_default=True,
    help="Memory of the host for KV that has to leave the device, e.g. 8GB; 0 for none.",
)

JOB_OPTIONS = (
    click.option("-m", "--model", help="Hub id or local directory."),
    click.option(
        "--template",
        help="Jinja template over the columns, e.g. 'Sentiment of: {{ text }}', or @FILE.",
    ),
    click.option("--prompt-column", help="Column that is the prompt, if not `prompt`."),
    click.option("--id-column", help="Column that names the rows, if not `request_id`."),
    click.option("--limit", type=click.IntRange(min=1), help="Only the first N rows."),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--order", type=click.Choice(list(ORDERS)), default="planned", show_default=True),
    click.option("--kv-memory", default="auto", show_default=True, help="Memory for KV, e.g. 4GB."),
    HOST_KV_OPTION,
    *DTYPE_OPTIONS,
    DEVICE_OPTION,
    click.option(
        "--tensor-parallel",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Devices of a machine that share one model, for one that is too large for each.",
    ),
    click.option(
        "--on-too-long",
        type=click.Choice(ON_TOO_LONG),
        default="error",
        show_default=True,
        help="What becomes of a prompt longer than the model's context.",
    ),
    click.option(
        "--speculate",
        type=click.Choice(SPECULATE),
        default="auto",
        show_default=True,
        help="Guess tokens ahead where few answers run and that pays; no answer changes.",
    ),
    click.option(
        "--machine",
        help="Plan by this machine's profile: a name such as h200, or a .json file "
        "[default: what `calibrate` measured here].",
    ),
    click.option(
        "--served-model-name",
        "served_model_names",
        multiple=True,
        help="What OpenAI batch lines call the model, if not by -m; may be repeated.",
    ),
    click.option("--price-per-hour", type=float, help="What an hour of the machine costs."),
    click.option("--revision", help="Revision of a hub model."),
    click.option(
        "--trust-remote-code", is_flag=True, help="Run code that comes with the model [off]."
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON summary on stdout."),
)


def with_options(
    options: tuple[Callable[[Command], Command], ...],
) -> Callable[[Command], Command]:
    """The command has these options, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def job_options_of(given: dict[str, Any]) -> JobOptions:
    """The given options; those that are none of the job's own are about sampling."""
    own = {name: given.pop(name) for name in list(given) if name in JobOptions.__dataclass_fields__}
    own["served_model_names"] = list(own["served_model_names"]) or None
    sampling = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value is not None and value != ()
    }
    return JobOptions(sampling=sampling, **own)


def tell(report: Any, as_json: bool) -> None:
    """The report stands on stdout, for a person or as one line of JSON."""
    click.echo(json.dumps(report.as_json(), ensure_ascii=False) if as_json else str(report))


def check_with_workflow(context: click.Context, allowed: Collection[str]) -> None:
    """Only these options, by their Python names, were given beside ``--workflow``.

    Raises:
        ConfigError: another was
    """
    for param in context.command.params:
        name = str(param.name)
        source = context.get_parameter_source(name)
        if source is click.core.ParameterSource.COMMANDLINE and name not in allowed:
            raise ConfigError(
                f"{param.opts[-1]} has no meaning with --workflow, whose file says what each step "
                f"asks and how each model is loaded; leave it out"
            )


def check_without_workflow(context: click.Context) -> None:
    """The input and the model are given, which a workflow's file may do without.

    Raises:
        click.MissingParameter: one is not
    """
    for param in context.command.params:
        if param.name in ("input", "model") and context.params.get(param.name) is None:
            hint = "'INPUT'" if param.name == "input" else None
            raise click.MissingParameter(ctx=context, param=param, param_hint=hint)
