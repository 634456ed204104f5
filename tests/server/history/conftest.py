"""Both kinds of history, each test with an empty one of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring_server.history.location import open_store
from mooring_server.history.store import Store
from postgres import Postgres

KINDS = ("sqlite", "postgres")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


@pytest.fixture(params=KINDS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "history.sqlite")
    running: Postgres = request.getfixturevalue("postgres")
    return running.database()


@pytest.fixture
def store(location: str) -> Iterator[Store]:
    opened = open_store(location)
    assert opened is not None
    opened.open()
    yield opened
    opened.drop_connection()
