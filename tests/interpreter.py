"""Triton without a GPU: its interpreter runs kernels in Python, one program after the other.

Triton reads TRITON_INTERPRET when it is imported, so what runs under it has a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent


def environment() -> dict[str, str]:
    """With tests/ on the path, so that pytest finds plugins there."""
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}


def run_tests(
    path: str, marked: str = "not verify and not gpu", limit: float = 300, plugin: str = "no:cacheprovider"
) -> None:
    """Run the tests in `path` (below tests/) under the interpreter; raise with their report if one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin, "-m", marked, str(HERE / path)]
    done = subprocess.run(command, cwd=HERE.parent, env=environment(), capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise AssertionError(f"{path} under Triton's interpreter:\n{done.stdout[-8000:]}{done.stderr[-2000:]}")
