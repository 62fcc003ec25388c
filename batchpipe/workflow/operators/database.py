"""Any database that SQLAlchemy knows, asked by many threads. Alone imports it.

Queries read: SQLite files are opened and PostgreSQL's transactions begun as read-only, and
elsewhere nothing is committed. For equal values a query is asked once, after a failure again, and a
resumed run asks once more for what was not kept; so whoever wants queries to write says so, by
``?mode=rw`` in the URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Event
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.rows.words import one_line
from batchpipe.workflow.authoring.variables import Hidden, with_variables
from batchpipe.workflow.operators.database_urls import MODES, sqlite_uri
from batchpipe.workflow.operators.explain import EXPLAINED, POSTGRESQL_MISTAKES, Estimate
from batchpipe.workflow.operators.retry import Transient

try:
    import sqlalchemy
    from sqlalchemy import exc
    from sqlalchemy.engine import URL, Engine, make_url
except ImportError as error:
    raise ConfigError(
        f"sql steps need the package sqlalchemy ({error}): pip install 'batchpipe[workflow]'"
    ) from error

CONNECT_SECONDS = 10  # after which a host that says nothing counts as down
DRIVERS = {"psycopg": "psycopg[binary]", "MySQLdb": "mysqlclient"}  # module -> package


class Refused(ValueError):
    """The database does not take a query or its values; the message is the reason."""


class Database:
    """One database, connected to when it is first asked, by up to so many threads at once.

    Variables of the environment in the URL are looked up here, and no sentence shows their values.

    Raises:
        ConfigError: the URL is none, its driver is missing, or its SQLite file
    """

    def __init__(self, name: str, url: str, *, threads: int = 8) -> None:
        self.name = name
        self.closing = Event()
        self._hidden = Hidden([url])
        address, mode = _address(name, with_variables(url))
        self._shown = address.render_as_string(hide_password=True)
        self._writes = mode != "ro"
        options: dict[str, Any] = {"pool_size": threads, "max_overflow": 0, "pool_pre_ping": True}
        if address.get_backend_name() == "sqlite":
            file = sqlite_uri(name, address.database, mode)
            address = address.set(database=file)
            address = address.update_query_dict({"mode": mode, "uri": "true"})
        if address.get_backend_name() == "postgresql":
            options["execution_options"] = {"postgresql_readonly": not self._writes}
            if address.get_driver_name().startswith("psycopg"):
                seconds = address.query.get("connect_timeout", CONNECT_SECONDS)
                options["connect_args"] = {"connect_timeout": seconds}
        self._engine = _engine(name, address, options, self._hidden)

    def close(self) -> None:
        """Connections that nobody uses are closed, and nobody waits for another attempt."""
        self.closing.set()
        self._engine.dispose()

    def parameters(self, query: str) -> frozenset[str]:
        """The names that the query has as ``:name``."""
        return frozenset(sqlalchemy.text(query).compile(dialect=self._engine.dialect).params)

    def explained(self, query: str) -> Estimate:
        """What the database thinks that the query costs, where it can be asked that now.

        Raises:
            Refused: whatever the values, it does not take the query
        """
        dialect = self._engine.dialect
        if dialect.name not in EXPLAINED:
            return Estimate()
        style, explain = EXPLAINED[dialect.name]
        other: Any = type(dialect)
        compiled: Any = sqlalchemy.text(query).compile(dialect=other(paramstyle=style))
        try:
            with self._engine.connect() as connection:
                connection.detach()  # closed afterwards, with the statement that is prepared in it
                return explain(connection, str(compiled), compiled.positiontup or ())
        except exc.DBAPIError as error:
            if _is_mistake(error):
                raise Refused(self._reason(error)) from error
            return Estimate(unknown=self._reason(error))

    def rows(self, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What the query gives with these parameters.

        Raises:
            Transient: the database is away or busy
            Refused: it does not take the query or the values, or the rows cannot be told as objects
        """
        begin = self._engine.begin if self._writes else self._engine.connect
        try:
            with begin() as connection:
                result = connection.execute(sqlalchemy.text(query), values)
                if result.returns_rows:
                    return _objects(result)
                if self._writes:
                    return []
                raise Refused(f"the query gives no rows, and may not write{_TO_WRITE}")
        except Refused:
            raise
        except Exception as error:  # a driver raises anything at all for values that it refuses
            if _is_transient(error):
                raise Transient(self._reason(error)) from error
            raise Refused(self._reason(error)) from error

    def _reason(self, error: Exception) -> str:
        return self._hidden.out_of(_reason(error))


_TO_WRITE = "; ?mode=rw in the database's URL lets its queries write"


def _address(name: str, url: str) -> tuple[URL, str]:
    """The URL without what is ours in it, and whether queries may write: SQLite's ``mode``."""
    try:
        address = make_url(url)
    except (exc.ArgumentError, ValueError) as error:  # not shown: it may hold a password
        raise ConfigError(
            f"database {name}: its URL cannot be read; write sqlite:///films.db or "
            f"postgresql+psycopg://user@host/films"
        ) from error
    mode = address.query.get("mode", "ro")
    if mode not in MODES:
        raise ConfigError(
            f"database {name}: mode={mode} in its URL; mode=rw lets queries write, mode=rwc has "
            f"SQLite make the file, and without a mode they only read"
        )
    return address.difference_update_query(["mode"]), str(mode)


def _engine(name: str, address: URL, options: Mapping[str, Any], hidden: Hidden) -> Engine:
    try:
        engine = sqlalchemy.create_engine(address, **options)
    except exc.NoSuchModuleError as error:
        raise ConfigError(
            f"database {name}: SQLAlchemy knows no {address.drivername}; write "
            f"postgresql+psycopg://..., sqlite:///..., or install the package that adds it"
        ) from error
    except ModuleNotFoundError as error:
        package = DRIVERS.get(str(error.name), str(error.name))
        raise ConfigError(
            f"database {name}: the driver of {address.drivername} is missing: pip install "
            f"'{package}'"
        ) from error
    except (exc.ArgumentError, TypeError, ValueError) as error:
        reason = hidden.out_of(one_line(str(error)))
        raise ConfigError(f"database {name}: its URL is wrong: {reason}") from error
    if engine.dialect.is_async:
        raise ConfigError(
            f"database {name}: {address.drivername} is a driver for asyncio; batchpipe asks from "
            f"threads: postgresql+psycopg, mysql+pymysql, sqlite"
        )
    return engine


def _objects(result: Any) -> list[dict[str, Any]]:
    names = list(result.keys())
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"the query gives two columns {name}; rename one of them by AS")
    return [dict(zip(names, row, strict=True)) for row in result]


def _is_transient(error: Exception) -> bool:
    """True where the same query may be answered a little later."""
    if isinstance(error, exc.TimeoutError):  # no connection was free
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    sqlite = getattr(error.orig, "sqlite_errorname", None)
    if sqlite is not None:
        return str(sqlite).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
    return bool(error.connection_invalidated) or isinstance(error, exc.OperationalError)


def _is_mistake(error: exc.DBAPIError) -> bool:
    """True where no value and no later day would mend the query."""
    if type(error.orig).__module__ == "sqlite3":
        code = getattr(error.orig, "sqlite_errorname", "SQLITE_MISUSE")  # several statements
        return code in ("SQLITE_ERROR", "SQLITE_MISUSE")
    return getattr(error.orig, "sqlstate", None) in POSTGRESQL_MISTAKES


def _reason(error: Exception) -> str:
    """The driver's own words, without the query and its values, which the user knows."""
    cause = getattr(error, "orig", None) or error
    reason = one_line(str(cause)) or type(cause).__name__
    read_only = (
        getattr(cause, "sqlstate", None) == "25006"
        or getattr(cause, "sqlite_errorname", None) == "SQLITE_READONLY"
    )
    return reason + _TO_WRITE if read_only else reason
