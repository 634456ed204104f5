"""deploy/gpu-check.sh on a machine without a GPU: what it refuses, and its report, with a stand-in for Python."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from deploy.prometheus import DEPLOY
from mooring_hooks.engine import VLLM_VERSION

SCRIPT = DEPLOY / "gpu-check.sh"
PYTHON = """#!/bin/sh
# Stands for an interpreter with vLLM and a GPU: every step that it is asked for ends well, but for the one to FAIL.
echo "$@" >>"$ASKED"
case "$*" in *"$FAIL"*) echo "1 failed"; exit 1 ;; esac
echo "12 passed"
"""


def check(tmp_path: Path, *steps: str, python: str | Path, fail: str = "nothing") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": str(python), "OUT": str(tmp_path / "out"), "FAIL": fail,
                                "ASKED": str(tmp_path / "asked"), "PATH": f"{tmp_path}:/usr/bin:/bin"}  # fmt: skip
    return subprocess.run([SCRIPT, *steps], env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    for name, text in (("python", PYTHON), ("nvidia-smi", "#!/bin/sh\necho 'NVIDIA H200, 580.1, 143771 MiB'\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path / "python"


def test_an_interpreter_without_vllm_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    done = check(tmp_path, python="/usr/bin/python3")
    assert done.returncode == 2 and f"vllm=={VLLM_VERSION}" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_step_that_is_not_there_is_refused(tmp_path: Path, stand_in: Path) -> None:
    done = check(tmp_path, "kernels", python=stand_in)
    assert done.returncode == 2 and "there is no step kernels" in done.stderr


def test_the_report_has_a_line_for_every_step(tmp_path: Path, stand_in: Path) -> None:
    done = check(tmp_path, python=stand_in)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^\| (\w+) \| ok \| \d+ \|$", done.stdout, re.MULTILINE)
    assert lines == ["doctor", "kernel", "parity", "batching", "selftest", "v2", "hub", "overhead", "kernelspeed"]
    assert "- NVIDIA H200, 580.1, 143771 MiB" in done.stdout and done.stdout.count("12 passed") >= len(lines)
    assert done.stdout.endswith((tmp_path / "out" / "report.md").read_text())


def test_one_failure_is_the_end_and_stops_no_other_step(tmp_path: Path, stand_in: Path) -> None:
    done = check(tmp_path, "parity", "batching", python=stand_in, fail="test_parity.py")
    assert done.returncode == 1
    assert "| parity | FAILED (1), see" in done.stdout and "| batching | ok |" in done.stdout


def test_every_file_that_it_runs_is_there() -> None:
    text = SCRIPT.read_text()
    named = re.findall(r"\b((?:tests|benchmarks)/[\w/]+\.py)", text)
    named += [f"tests/{plugin}.py" for plugin in re.findall(r"-p (\w+) ", text)]
    assert len(named) > 8 and [path for path in named if not (DEPLOY.parent / path).is_file()] == []


def test_it_wants_the_vllm_that_mooring_is_made_for() -> None:
    assert re.search(r"^VLLM=(\S+)$", SCRIPT.read_text(), re.MULTILINE)[1] == VLLM_VERSION  # type: ignore[index]
