"""The blocks of one round, whose arms take turns (mooring_bench/blocks.py), and what each took of the machine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import psutil

from arms import ARMS, Server
from load import add
from mooring_bench.blocks import Turns, in_turn

H = TypeVar("H")
"""Heard: load.py's or last_frames.py's."""
Cpu = dict[str, dict[str, float]]
"""Server -> process -> CPU seconds."""


@dataclass
class Block(Generic[H]):
    """What all turns of one arm have taken."""

    heard: H
    seconds: list[float] = field(default_factory=list)
    """Of each turn."""
    cpu: Cpu = field(default_factory=dict)
    others: float = 0.0
    """CPU seconds that everything else on the machine took, stolen time included."""

    def split(self, arm: str) -> tuple[dict[str, float], dict[str, float]]:
        """CPU seconds of the arm's own server by process, and of each server that rested."""
        own = ARMS[arm].server
        return self.cpu[own], {name: sum(used.values()) for name, used in self.cpu.items() if name != own}

    def add(self, heard: H, cpu: Cpu, others: float) -> None:
        add(self.heard, heard)
        self.seconds.append(heard.seconds)  # type: ignore[attr-defined]
        self.others += others
        for server, used in cpu.items():
            sums = self.cpu.setdefault(server, {})
            sums |= {process: sums.get(process, 0.0) + seconds for process, seconds in used.items()}


def take_turns(
    order: Sequence[str],
    turns: Turns,
    servers: Mapping[str, Server],
    empty: type[H],
    send: Callable[[str, int, int], H],
) -> dict[str, Block[H]]:
    """Arm -> its block; `send` loads an arm with a number of waves, whose prompts belong to a turn."""
    found = {arm: Block(empty()) for arm in order}
    for turn, arm in in_turn(order, turns.times):
        before, machine = _cpu(servers), psutil.cpu_times()
        with _alone(servers[ARMS[arm].server], servers):
            heard = send(arm, turns.waves, turn)
        used = {name: _minus(after, before[name]) for name, after in _cpu(servers).items()}
        ours = sum(sum(one.values()) for one in used.values()) + heard.client_cpu  # type: ignore[attr-defined]
        found[arm].add(heard, used, _busy(psutil.cpu_times()) - _busy(machine) - ours)
    return found


@contextmanager
def _alone(server: Server, servers: Mapping[str, Server]) -> Iterator[None]:
    """All others are stopped meanwhile."""
    others = [other for other in servers.values() if other is not server]
    try:
        for other in others:
            other.suspend()
        yield
    finally:
        for other in others:
            other.resume()


def _cpu(servers: Mapping[str, Server]) -> Cpu:
    return {name: server.cpu_by_process() for name, server in servers.items()}


def _minus(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {process: after[process] - seconds for process, seconds in before.items()}


def _busy(times: Any) -> float:
    """Seconds that the machine was at work."""
    names = [name for name in times._fields if name not in ("idle", "iowait", "guest", "guest_nice")]
    return float(sum(getattr(times, name) for name in names))
