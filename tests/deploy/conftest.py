"""Two stand-ins for servers, one that mostly caps and one that mostly does not, under a real Prometheus."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.prometheus import Prometheus
from servers import free_port

STAND_IN = Path(__file__).parent / "stand_in.py"


class Fed(NamedTuple):
    prometheus: Prometheus
    mostly_capped: str
    """host:port, which Prometheus calls the instance."""
    mostly_off: str


@pytest.fixture(scope="package")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fed]:
    with ExitStack() as stack:
        capped, off = (stack.enter_context(stand_in(*answers)) for answers in ((6, 1), (1, 6)))
        folder = tmp_path_factory.mktemp("prometheus")
        prometheus = stack.enter_context(Prometheus([capped, off], folder))
        prometheus.wait_for("count(count_over_time(mooring_turns_total[1m]) >= 4) == 4")
        yield Fed(prometheus, capped, off)


class stand_in:
    """A process of stand_in.py: its address on entry, its end on exit."""

    def __init__(self, capped: int, off: int) -> None:
        self._port = free_port()
        self._command = [sys.executable, str(STAND_IN), str(self._port), str(capped), str(off)]

    def __enter__(self) -> str:
        self._process = subprocess.Popen(self._command)
        return f"127.0.0.1:{self._port}"

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
