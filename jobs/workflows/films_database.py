"""The database that `films.yaml` reads: a few films and what was thought of them.

    python jobs/workflows/films_database.py sqlite:///films.db
    python jobs/workflows/films_database.py postgresql+psycopg://user:password@host/films

Tables ``film`` and ``review`` are made anew; the films are invented. Where another address than
the first is meant, `films.yaml` wants it as the variable ``FILMS_DATABASE``.
"""

from __future__ import annotations

import sys

from sqlalchemy import Column, Float, ForeignKey, Integer, MetaData, Table, Text, create_engine

TABLES = MetaData()
FILM = Table(
    "film",
    TABLES,
    Column("id", Integer, primary_key=True),
    Column("title", Text, nullable=False),
    Column("genre", Text, nullable=False, index=True),
    Column("year", Integer, nullable=False),
    Column("minutes", Integer, nullable=False),
    Column("plot", Text, nullable=False),
)
REVIEW = Table(
    "review",
    TABLES,
    Column("id", Integer, primary_key=True),
    Column("film_id", Integer, ForeignKey("film.id"), nullable=False, index=True),
    Column("stars", Float, nullable=False),  # 0 to 5
)

# Title, genre, year, minutes, plot, stars of its reviews.
FILMS = (
    ("Salt Road", "western", 1961, 104, "Two sisters drive a salt wagon across a desert.", (4, 5)),
    ("The Last Water", "western", 1974, 131, "A town digs for a well and finds a grave.", (3, 4)),
    ("Paper Lanterns", "drama", 1998, 118, "A printer hides letters in his calendars.", (5, 5, 4)),
    ("North of Home", "drama", 2011, 95, "A nurse returns to the island that she left.", (4, 3)),
    (
        "The Quiet Floor",
        "drama",
        2019,
        142,
        "A house loses its lift and finds its people.",
        (4,),
    ),
    ("Seven Keys", "crime", 1957, 88, "A locksmith is asked for a copy of every key.", (5, 4)),
    ("Cold Ledger", "crime", 2003, 121, "An accountant finds her own name in the books.", (4, 4)),
    ("Moth", "crime", 2016, 109, "A thief steals lamps, and nothing else.", (2, 3)),
    ("A Goat for Mayor", "comedy", 1983, 92, "A village votes in earnest for a joke.", (4, 5)),
    ("Wrong Wedding", "comedy", 2008, 101, "Two parties book one hall on one evening.", (3, 3)),
)


def make_database(url: str) -> int:
    """The tables are there with all films. Returns how many these are."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            TABLES.drop_all(connection)
            TABLES.create_all(connection)
            for number, (title, genre, year, minutes, plot, stars) in enumerate(FILMS, start=1):
                film = {"id": number, "title": title, "genre": genre, "year": year}
                connection.execute(FILM.insert(), film | {"minutes": minutes, "plot": plot})
                connection.execute(
                    REVIEW.insert(), [{"film_id": number, "stars": each} for each in stars]
                )
    finally:
        engine.dispose()
    return len(FILMS)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give the database's URL: python films_database.py sqlite:///films.db")
    print(f"{make_database(sys.argv[1])} films")
