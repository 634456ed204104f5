"""Resident memory of a server's processes while it answers, and whether it grows.

slope    least-squares MiB per 1000 answers, over the samples after the first WARM_UP of the run
growth   slope times the answers of those samples, in MiB
"""

import time
from typing import Final, NamedTuple

import numpy as np
import psutil

WARM_UP: Final = 0.3
"""Share of the answers after which memory should no longer grow: caches and heaps are full by then."""
EVERY: Final = 0.5
"""Seconds between two samples."""
MIB: Final = 2**20


class Trend(NamedTuple):
    """Of one process after the warm-up."""

    first: float
    """MiB, as is `last`: the medians of the first and of the last tenth of the samples."""
    last: float
    slope: float
    """MiB per 1000 answers."""
    growth: float
    """MiB."""


class Memory:
    """The processes of vLLM below `pid`, and `pid` itself, which is the API server where there is only one."""

    def __init__(self, pid: int) -> None:
        parent = psutil.Process(pid)
        titled = {child.cmdline()[0]: child for child in parent.children(recursive=True) if child.cmdline()}
        self.processes = {"main": parent} | {k: v for k, v in titled.items() if k.startswith("VLLM::")}
        self._spent = self._cpu()
        self._answers: list[int] = []
        self._rss: dict[str, list[int]] = {name: [] for name in self.processes}
        self._due = time.monotonic()

    def sample(self, answers: int) -> None:
        """Take one if it is time."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY
        self._answers.append(answers)
        for name, process in self.processes.items():
            self._rss[name].append(process.memory_info().rss)

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time of each process since the beginning."""
        return {name: round(spent - self._spent[name], 1) for name, spent in self._cpu().items()}

    def _cpu(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self.processes.items()}

    def trends(self) -> dict[str, Trend]:
        answers = np.asarray(self._answers)
        warm = answers >= WARM_UP * answers[-1]
        return {name: _trend(answers[warm], np.asarray(rss)[warm] / MIB) for name, rss in self._rss.items()}


def _trend(answers: np.ndarray, mib: np.ndarray) -> Trend:
    per_answer = float(np.polyfit(answers, mib, 1)[0])
    tenth = max(len(mib) // 10, 1)
    found = np.median(mib[:tenth]), np.median(mib[-tenth:]), per_answer * 1000, per_answer * (answers[-1] - answers[0])
    return Trend(*(round(float(value), 3) for value in found))
