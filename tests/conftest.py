"""What every test may use: tables and histories in folders of their own, and tiny models by architecture."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported: two OpenMP threads that wait for each other on two busy cores cost far more than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import servers


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOORING_TABLES", str(tmp_path_factory.mktemp("tables")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def mooring_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """The demo in fp32, with tools; for tests that need nothing else of it and leave it as it was."""
    with servers.mooring_demo(tmp_path_factory.mktemp("mooring-demo")) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="session")
def stock_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """The same model on vLLM as it comes, with the same options."""
    with servers.stock_demo(tmp_path_factory.mktemp("stock-demo")) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model of this architecture, made once."""
    from tiny import make_model

    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_model(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder
