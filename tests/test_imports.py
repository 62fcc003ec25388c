"""Who may import whom, and what stays unloaded until it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRITON_FILES = {"decode.py", "prefill.py", "store.py", "tile.py"}
NUMPY_FILES = {"native.py"}  # lays out the records that compiled code reads


def imported_modules(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            modules.add(node.module or "")
    return modules


def external(modules: set[str]) -> set[str]:
    tops = {module.partition(".")[0] for module in modules}
    return tops - set(sys.stdlib_module_names) - {"batchpipe"}


def ours(modules: set[str]) -> set[str]:
    return {module for module in modules if module.partition(".")[0] == "batchpipe"}


@pytest.mark.parametrize("path", sorted((ROOT / "planner").glob("**/*.py")), ids=lambda p: p.name)
def test_planner_imports_only_itself_and_never_torch(path: Path) -> None:
    modules = imported_modules(path)
    assert external(modules) <= {"numpy", "networkx", "polars", "pyarrow"}
    assert all(module.startswith("batchpipe.planner") for module in ours(modules))


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("**/*.py")), ids=lambda p: p.name)
def test_kernels_import_only_torch_and_themselves(path: Path) -> None:
    modules = imported_modules(path)
    allowed = {"torch"}
    allowed |= {"triton"} if path.name in TRITON_FILES else set()
    allowed |= {"numpy"} if path.name in NUMPY_FILES else set()
    assert external(modules) <= allowed
    assert all(module.startswith("batchpipe.kernels") for module in ours(modules))


def files_that_import(package: str) -> list[str]:
    return [
        path.relative_to(ROOT).as_posix()
        for room in ("batchpipe", "planner", "kernels")
        for path in (ROOT / room).glob("**/*.py")
        if package in external(imported_modules(path))
    ]


@pytest.mark.parametrize("package", ["openai", "vllm"])
def test_another_systems_package_is_imported_by_one_file(package: str) -> None:
    assert files_that_import(package) == [f"batchpipe/integrations/{package}.py"]


@pytest.mark.parametrize("package", ["airflow", "ray"])
def test_a_system_with_a_room_is_imported_there_alone(package: str) -> None:
    found = files_that_import(package)
    assert found
    assert all(file.startswith(f"batchpipe/integrations/{package}/") for file in found)


@pytest.mark.parametrize(("package", "file"), [("xgrammar", "grammars"), ("jsonschema", "judge")])
def test_what_forms_need_is_imported_by_one_file(package: str, file: str) -> None:
    found = [
        path.stem
        for path in ROOT.glob("batchpipe/**/*.py")
        if package in external(imported_modules(path))
    ]
    assert found == [file]


@pytest.mark.parametrize(
    ("package", "file"), [("sqlalchemy", "database"), ("httpx", "http"), ("tenacity", "retry")]
)
def test_what_workflows_need_is_imported_by_one_file(package: str, file: str) -> None:
    assert files_that_import(package) == [f"batchpipe/workflow/operators/{file}.py"]


@pytest.mark.parametrize(
    ("package", "module"), [("sqlalchemy", "sql"), ("httpx", "http"), ("tenacity", "retry")]
)
def test_a_missing_package_of_workflows_is_told_with_the_line_that_installs_it(
    package: str, module: str
) -> None:
    check = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from batchpipe.errors import ConfigError\n"
        f"try: import batchpipe.workflow.operators.{module}\n"
        "except ConfigError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert f"the package {package} " in ran.stdout
    assert ran.stdout.endswith("pip install 'batchpipe[workflow]'\n")


@pytest.mark.parametrize(
    "statement",
    [
        "import batchpipe",
        "import batchpipe.planner.plan",
        "import batchpipe.cli",
        "import batchpipe.running.job",
        "import batchpipe.report.command",
        "import batchpipe.integrations.server",
        "import batchpipe.background.watch, batchpipe.background.process",
        "import batchpipe.integrations.airflow.batch_manifest",
        "import batchpipe.integrations.airflow.result_rows",
        "import batchpipe.workflow.operators.sql, batchpipe.workflow.operators.http",
        "import batchpipe.workflow.operators.python, batchpipe.workflow.operators.calls",
    ],
)
def test_torch_and_transformers_stay_unloaded(statement: str) -> None:
    check = f"{statement}, sys; print({{'torch', 'transformers'}} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_dataframe_library_is_imported_by_who_names_it_alone(package: str) -> None:
    found = [
        path.name
        for path in (ROOT / "batchpipe").glob("**/*.py")
        if package in external(imported_modules(path))
    ]
    assert found == [f"{package}.py" for _ in found]


def test_engine_needs_no_polars() -> None:
    """A GPU machine without polars can run the engine."""
    check = "import sys; sys.modules['polars'] = None; import batchpipe.running.job"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_help_loads_no_model_library() -> None:
    check = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from batchpipe.cli import commands\n"
        "assert CliRunner().invoke(commands, ['run', '--help']).exit_code == 0\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
