"""A query for each row: what it gives, and what fails alone."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postgres_server import PostgresServer

from batchpipe.errors import ConfigError
from batchpipe.workflow.operators import sql
from batchpipe.workflow.operators.database import Database
from batchpipe.workflow.operators.sql import Query
from batchpipe.workflow.steps import Sql

BY_TITLE = "SELECT title, year FROM films WHERE title = :title"


@contextmanager
def opened(url: str | Path, **options: Any) -> Iterator[Database]:
    database = Database("films", url if isinstance(url, str) else f"sqlite:///{url}", **options)
    try:
        yield database
    finally:
        database.close()


def query(database: Database, text: str, *names: str, attempts: int = 3) -> Query:
    values = {name: f"made.{name}" for name in names}
    step = Sql(name="facts", line=7, database="films", query=text, values=values, attempts=attempts)
    return Query(step, database)


@pytest.fixture
def films(sqlite_file: Path) -> Iterator[Database]:
    with opened(sqlite_file) as database:
        yield database


@pytest.fixture
def postgres_films(server: PostgresServer) -> Iterator[Database]:
    with opened(server.url) as database:
        yield database


@pytest.fixture(params=["films", "postgres_films"])
def any_films(request: pytest.FixtureRequest) -> Database:
    database: Database = request.getfixturevalue(request.param)
    return database


def test_a_row_is_given_the_querys_rows_and_the_first_of_them(any_films: Database) -> None:
    found = query(
        any_films, "SELECT title, year FROM films WHERE year > :year ORDER BY year", "year"
    )
    assert found.answer({"year": 1990}).values == {
        "rows": [{"title": "Heat", "year": 1995}, {"title": "100% Wolf", "year": 2020}],
        "first": {"title": "Heat", "year": 1995},
    }


def test_no_rows_are_no_error(any_films: Database) -> None:
    found = query(any_films, BY_TITLE, "title").answer({"title": "Up"})
    assert found.values == {"rows": [], "first": None}
    assert found.error is None


@pytest.mark.parametrize("title", ["' OR 1=1 --", "100% Wolf", ":title", "%(title)s", '"; DROP'])
def test_values_are_never_read_as_sql(any_films: Database, title: str) -> None:
    found = query(any_films, BY_TITLE, "title").answer({"title": title})
    assert [row["title"] for row in found.values["rows"]] == [title] * (title == "100% Wolf")


def test_a_percent_sign_and_a_cast_in_the_query_are_themselves(postgres_films: Database) -> None:
    asked = query(
        postgres_films,
        "SELECT year::text AS y FROM films WHERE title LIKE '100%' AND year > :y",
        "y",
    )
    assert asked.check().rows is not None
    assert asked.answer({"y": 0}).values["first"] == {"y": "2020"}


def test_values_become_what_json_holds(postgres_films: Database) -> None:
    text = """SELECT rating, seen, 12345678901234567890.125::numeric AS exact, sum(1) OVER () AS n,
        ARRAY[1, 2] AS list, '{"a": [1.5]}'::jsonb AS json, interval '90 seconds' AS span,
        '6d3ed2c5-3a4d-4cba-8a94-2ab4d5fb4b4d'::uuid AS id, '10.0.0.1'::inet AS host
        FROM films WHERE title = 'Heat'"""
    assert query(postgres_films, text).answer({}).values["first"] == {
        "rating": 8.25,
        "seen": "1995-12-15",
        "exact": "12345678901234567890.125",
        "n": 1,
        "list": [1, 2],
        "json": {"a": [1.5]},
        "span": 90.0,
        "id": "6d3ed2c5-3a4d-4cba-8a94-2ab4d5fb4b4d",
        "host": "10.0.0.1",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("SELECT x'00ff' AS poster", "database films: column poster is of type bytes, which JSON "
            "cannot hold; cast it to text in the query, or leave it out"),
        ("SELECT 1 AS a, 2 AS a", "database films: the query gives two columns a; rename one of "
            "them by AS"),
        ("SELECT abs(-9223372036854775808)", "database films: integer overflow"),
    ],
)  # fmt: skip
def test_what_no_row_can_hold_is_that_rows_error(films: Database, text: str, sentence: str) -> None:
    assert query(films, text).answer({}).error == sentence


def test_a_parameter_that_is_a_list_is_refused_by_name(films: Database) -> None:
    found = query(films, BY_TITLE, "title").answer({"title": ["Heat"]})
    assert found.error == (
        "parameter title is a list, and a query takes texts, numbers and null; explode it, or pass "
        "it as text by tojson"
    )


def test_sql_that_fails_for_one_row_fails_that_row_alone(any_films: Database) -> None:
    asked = query(any_films, "SELECT substr(title, :begin) AS rest FROM films", "begin")
    outcomes = [asked.answer({"begin": begin}) for begin in (1, 2**70, 1)]
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert str(outcomes[1].error).startswith("database films: ")


def test_queries_do_not_write_unless_the_url_says_so(any_films: Database) -> None:
    asked = query(any_films, "INSERT INTO films (title) VALUES ('Up') RETURNING title")
    error = asked.answer({}).error
    assert error is not None
    assert "read" in error
    assert error.endswith("; ?mode=rw in the database's URL lets its queries write")
    assert query(any_films, BY_TITLE, "title").answer({"title": "Up"}).values["rows"] == []


def test_a_query_that_may_write_is_committed(sqlite_file: Path, server: PostgresServer) -> None:
    for url in (f"sqlite:///{sqlite_file}?mode=rw", f"{server.url}&mode=rw"):
        with opened(url) as database:
            query(database, "CREATE TABLE IF NOT EXISTS seen (title text)").answer({})
            made = query(database, "INSERT INTO seen VALUES ('Up') RETURNING title").answer({})
            assert made.values["first"] == {"title": "Up"}
        with opened(url) as database:
            rows = query(database, "SELECT count(*) AS n FROM seen").answer({}).values["rows"]
            assert rows == [{"n": 1}]


def test_many_threads_share_one_sqlite_file(films: Database) -> None:
    asked = query(films, BY_TITLE, "title")
    found: list[Any] = []

    def ask() -> None:
        for _ in range(50):
            found.append(asked.answer({"title": "Heat"}))

    threads = [threading.Thread(target=ask) for _ in range(16)]  # twice the pool
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 800
    assert {outcome.error for outcome in found} == {None}


def test_a_locked_sqlite_file_is_asked_again(sqlite_file: Path) -> None:
    other = sqlite3.connect(sqlite_file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.3, other.execute, ["COMMIT"])
    with opened(f"sqlite:///{sqlite_file}?timeout=0") as database:
        error = query(database, BY_TITLE, "title", attempts=1).answer({"title": "Heat"}).error
        assert error == "database films does not answer: database is locked"
        release.start()
        asked = query(database, BY_TITLE, "title", attempts=8)
        assert asked.answer({"title": "Heat"}).error is None
    release.join()
    other.close()


def test_many_rows_are_kept_and_told_once(
    films: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "MANY_ROWS", 2)
    asked = query(films, "SELECT title FROM films")
    for _ in range(2):
        assert len(asked.answer({}).values["rows"]) == 3
    assert capsys.readouterr().err == (
        "step facts (line 7): the query gave 3 rows for a single row, and all of them are kept; a "
        "WHERE or a LIMIT would keep fewer\n"
    )


def test_postgres_tells_a_querys_cost_without_its_values(postgres_films: Database) -> None:
    whole = query(postgres_films, "SELECT * FROM films").check()
    one = query(postgres_films, f"{BY_TITLE} AND year > :year", "title", "year").check()
    assert whole.cost is not None
    assert one.cost is not None
    assert one.rows is not None
    assert whole.rows is not None
    assert 0 < one.rows < whole.rows
    assert one.unknown is None
    # The connection that explained can explain the next, and leaves nothing behind.
    assert (
        query(postgres_films, "SELECT * FROM pg_prepared_statements").answer({}).values["rows"]
        == []
    )


def test_sqlite_tells_no_cost_but_takes_the_query(films: Database) -> None:
    found = query(films, BY_TITLE, "title").check()
    assert (found.cost, found.rows, found.unknown) == (None, None, None)


@pytest.mark.parametrize("text", ["SELEC 1", "SELECT director FROM films", "SELECT 1 FROM actors"])
def test_a_query_that_no_row_could_mend_is_told_before_any_row(
    any_films: Database, text: str
) -> None:
    with pytest.raises(ConfigError, match=r"^step facts \(line 7\): database films does not take"):
        query(any_films, text).check()


def test_sqlite_takes_no_second_statement(films: Database) -> None:
    with pytest.raises(ConfigError, match="one statement"):
        query(films, "SELECT 1; SELECT 2").check()


def test_explaining_runs_no_second_statement(postgres_films: Database) -> None:
    query(postgres_films, "SELECT 1; DROP TABLE films").check()
    assert query(postgres_films, "SELECT count(*) AS n FROM films").answer({}).values["first"] == {
        "n": 3
    }


def test_parameters_that_do_not_match_are_named(films: Database) -> None:
    with pytest.raises(ConfigError) as told:
        query(films, BY_TITLE, "name").check()
    assert str(told.value) == (
        "step facts (line 7): its query has the parameters title, its values are for name"
    )


def test_a_server_killed_in_the_middle_fails_the_rows_after_it(server: PostgresServer) -> None:
    with opened(server.url) as database:
        asked = query(database, BY_TITLE, "title", attempts=2)
        before = [asked.answer({"title": "Heat"}) for _ in range(3)]
        server.kill()
        gone = [asked.answer({"title": "Heat"}) for _ in range(2)]
        assert [outcome.error for outcome in before] == [None] * 3
        for outcome in gone:
            assert str(outcome.error).startswith("database films does not answer: ")
            assert str(outcome.error).endswith(" (2 attempts)")
        assert asked.check().unknown is not None
        server.start()
        assert asked.answer({"title": "Heat"}) == before[0]


def test_a_server_that_comes_back_between_attempts_loses_no_row(server: PostgresServer) -> None:
    with opened(server.url) as database:
        asked = query(database, BY_TITLE, "title", attempts=60)
        assert asked.answer({"title": "Heat"}).error is None
        server.kill()
        found: list[Any] = []
        waiting = threading.Thread(target=lambda: found.append(asked.answer({"title": "Heat"})))
        waiting.start()
        server.start()
        waiting.join()
        assert [outcome.error for outcome in found] == [None]


def test_a_closed_database_ends_the_wait_for_another_attempt(server: PostgresServer) -> None:
    server.kill()
    with opened(server.url) as database:
        asked = query(database, BY_TITLE, "title", attempts=1_000_000)
        found: list[Any] = []
        waiting = threading.Thread(target=lambda: found.append(asked.answer({"title": "Heat"})))
        waiting.start()
    waiting.join()
    assert "does not answer" in found[0].error


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sqlite://", "database films: a SQLite database in memory is gone with the connection "
            "that made it, so each thread would see an empty one; name a file: sqlite:///films.db"),
        ("sqlite:///:memory:", "database films: a SQLite database in memory"),
        ("sqlite:///nowhere.db", "database films: the SQLite file nowhere.db does not exist; paths "
            "count from the working directory"),
        ("films.db", "database films: its URL cannot be read; write sqlite:///films.db or"),
        ("oracel://me:secret@here/x", "database films: SQLAlchemy knows no oracel"),
        ("mysql+mysqldb://me:secret@here/x", "database films: the driver of mysql+mysqldb is "
            "missing: pip install 'mysqlclient'"),
        ("sqlite:///films.db?mode=wr", "database films: mode=wr in its URL; mode=rw lets"),
        ("postgresql+psycopg_async://me:secret@here/x", "database films: postgresql+psycopg_async "
            "is a driver for asyncio"),
        ("postgresql://me:secret@here:port/x", "database films: its URL cannot be read"),
    ],
)  # fmt: skip
def test_a_wrong_url_is_told_in_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as told:
        Database("films", url)
    assert str(told.value).startswith(sentence)
    assert "secret" not in str(told.value)


def test_no_sentence_shows_a_password() -> None:
    with opened("postgresql+psycopg://me:secret@127.0.0.1:1/x") as database:
        told = str(query(database, "SELECT 1", attempts=1).answer({}).error)
        assert "127.0.0.1" in told
        assert "secret" not in told


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with opened(f"sqlite:///{tmp_path_factory.mktemp('empty') / 'empty.db'}?mode=rwc") as database:
        yield database


@given(value=st.text() | st.integers() | st.floats() | st.none() | st.booleans())
def test_any_value_is_answered_or_refused_by_a_sentence(empty: Database, value: Any) -> None:
    outcome = query(empty, "SELECT :x AS x", "x").answer({"x": value})
    if outcome.error is None:
        assert outcome.values["first"]["x"] in (value, None)  # SQLite reads NaN as null
    else:
        assert outcome.error.startswith("database films: ")
