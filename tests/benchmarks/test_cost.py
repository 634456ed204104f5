"""benchmarks/cost.py: all servers started, handed to `bench load`, and stopped whatever happens."""

from typing import Any

import pytest

import cost
from load import CannotMeasure


class FakeServer:
    def __init__(self, name: str, starts: bool = True) -> None:
        self.name, self.base, self._starts = name, f"http://{name}", starts
        self.running = False

    def start(self) -> None:
        if not self._starts:
            raise CannotMeasure(f"the {self.name} server stopped with code 1")
        self.running = True

    def stop(self) -> None:
        self.running = False


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeServer]:
    made = {name: FakeServer(name) for name in ("stock", "measuring", "mooring")}
    monkeypatch.setattr(cost, "servers", lambda subject, arms, options, folder: made)
    return made


def test_bench_load_is_told_where_every_server_is(
    servers: dict[str, FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load(arguments: list[str]) -> int:
        asked.append((arguments, [server.running for server in servers.values()]))
        return 7

    monkeypatch.setattr(cost.bench_load, "main", load)
    assert cost.main(["--model", "demo", "--pairs", "3"]) == 7
    ((arguments, running),) = asked
    assert arguments[:5] == ["http://mooring", "--also", "measuring=http://measuring", "--stock", "http://stock"]
    assert arguments[-2:] == ["--pairs", "3"] and running == [True] * 3
    assert not any(server.running for server in servers.values())


def test_a_server_that_does_not_start_is_one_line_and_the_others_are_stopped(
    servers: dict[str, FakeServer], capsys: pytest.CaptureFixture[str]
) -> None:
    servers["mooring"] = FakeServer("mooring", starts=False)
    assert cost.main([]) == 2
    assert capsys.readouterr().err.endswith("cost: the mooring server stopped with code 1\n")
    assert not any(server.running for server in servers.values())
