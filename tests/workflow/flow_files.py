"""The workflow of every kind of step, in YAML and in Python."""

from __future__ import annotations

from typing import Any

import batchpipe as bp

SCHEMA = {"type": "object", "properties": {"names": {"type": "array", "items": {"type": "string"}}}}

YAML = """\
models:
  small: {model: path-or-name, dtype: bfloat16, kv_memory: 4GB}
  large: path-or-name
databases: {films: "sqlite:///films.db"}
steps:
  entities:
    llm: small
    template: |
      Passage:
      {{ passage }}
    max_tokens: 64
    stop: "\\n"
    schema:
      type: object
      properties: {names: {type: array, items: {type: string}}}
  chat: {llm: small, messages: [{role: user, content: "Who wrote {{ title }}?"}]}
  free: {llm: small, template: ["First. ", "Then {{ title }}."], order: free}
  facts:
    sql: films
    query: SELECT year FROM film WHERE title = :title
    values: {title: entities.output}
  page:
    http: POST https://host/{{ title | urlencode }}
    headers: {accept: text/plain}
    body: {question: "{{ passage }}", most: 3}
    per_second: 5
  clean: {python: "os.path:join", reads: [entities.output], writes: [names]}
  keep: {filter: "entities.parsed.names | length > 0"}
  each: {explode: entities.parsed.names}
  judge: {llm: large, template: "{{ each.item }} in {{ passage }}?", choices: [yes, no]}
  together:
    reduce: each
    items: {name: each.item, verdict: judge.output}
    by: [genre]
    on_error: skip
  verdict:
    vote: [small, large]
    template: "{{ title }}?"
    agreement: 0.8
    weights: modelswitch
    answer: "([0-9]+)"
  grade: {cascade: [small, large], template: "{{ title }}?", choices: [yes, no]}
output: {answer: verdict.output, grade: grade.output}
"""


def python_flow() -> Any:
    """The same, added in another order of calls but the same order of steps."""
    return (
        bp.Workflow(
            models={
                "small": {"model": "path-or-name", "dtype": "bfloat16", "kv_memory": "4GB"},
                "large": "path-or-name",
            },
            databases={"films": "sqlite:///films.db"},
        )
        .output(answer="verdict.output", grade="grade.output")
        .llm(
            "entities",
            "small",
            template="Passage:\n{{ passage }}\n",
            max_tokens=64,
            stop=["\n"],
            schema=SCHEMA,
        )
        .llm("chat", "small", messages=[{"role": "user", "content": "Who wrote {{ title }}?"}])
        .llm("free", "small", template=["First. ", "Then {{ title }}."], order="free")
        .sql(
            "facts",
            "films",
            "SELECT year FROM film WHERE title = :title",
            values={"title": "entities.output"},
        )
        .http(
            "page",
            "POST https://host/{{ title | urlencode }}",
            headers={"accept": "text/plain"},
            body={"question": "{{ passage }}", "most": 3},
            per_second=5,
        )
        .python("clean", "os.path:join", reads=["entities.output"], writes=["names"])
        .filter("keep", "entities.parsed.names | length > 0")
        .explode("each", "entities.parsed.names")
        .llm(
            "judge",
            "large",
            template="{{ each.item }} in {{ passage }}?",
            choices=["yes", "no"],
        )
        .reduce(
            "together",
            "each",
            items={"name": "each.item", "verdict": "judge.output"},
            by=["genre"],
            on_error="skip",
        )
        .vote(
            "verdict",
            ["small", "large"],
            template="{{ title }}?",
            agreement=0.8,
            weights="modelswitch",
            answer="([0-9]+)",
        )
        .cascade("grade", ["small", "large"], template="{{ title }}?", choices=["yes", "no"])
    )
