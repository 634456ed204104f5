"""Folders in memory: one's own, and those that killed processes have left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mooring_hooks.shared import LOCK, MEMORY, SharedFolder

HOLD = """
import sys, time
from pathlib import Path
from mooring_hooks.shared import SharedFolder
folder = SharedFolder(Path(sys.argv[1]))
print(folder.path, flush=True)
time.sleep(60)
"""


def held(within: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process with a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(within)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_lies_in_memory_for_this_user_alone_and_goes_away() -> None:
    folder = SharedFolder()
    assert folder.path.parent == MEMORY and folder.path.stat().st_mode & 0o777 == 0o700
    folder.remove()
    assert not folder.path.exists()


def test_what_a_killed_process_has_left_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    killed, left = held(tmp_path)
    living, kept = held(tmp_path)
    (left / "ring-x").write_bytes(b"x" * 1000)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    begun, other = tmp_path / "mooring-begun", tmp_path / "others"
    begun.mkdir()  # by a process that does not hold its lock yet
    (begun / "begun").touch()
    other.mkdir()
    (other / LOCK).touch()
    own = SharedFolder(tmp_path)
    assert not left.exists() and {kept, begun, other, own.path} == {*tmp_path.iterdir()}
    living.kill()
    living.wait()
    own.remove()


def test_where_memory_cannot_be_written_it_is_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = SharedFolder(tmp_path / "not there")
    assert folder.path.parent == tmp_path and os.listdir(folder.path) == [LOCK]
    folder.remove()
