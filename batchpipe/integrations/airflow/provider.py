"""What Airflow knows of batchpipe by its entry point: `airflow providers list` shows it."""

from __future__ import annotations

from typing import Any

ROOM = "batchpipe.integrations.airflow"


def get_provider_info() -> dict[str, Any]:
    """The provider's metadata, by Airflow's own schema."""
    return {
        "package-name": "batchpipe",
        "name": "batchpipe",
        "description": "Answer a whole table of prompts with a language model, as one batch.",
        "integrations": [{"integration-name": "batchpipe", "tags": ["ai"]}],
        "operators": [{"integration-name": "batchpipe", "python-modules": [f"{ROOM}.operator"]}],
        "triggers": [{"integration-name": "batchpipe", "python-modules": [f"{ROOM}.trigger"]}],
        "task-decorators": [
            {"name": "batchpipe", "class-name": f"{ROOM}.decorator.batchpipe_task"}
        ],
    }
