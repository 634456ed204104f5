"""What a result says about the machine that it was measured on."""

from pathlib import Path

import pytest

from mooring_bench import record


def driver(folder: Path, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{says}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_machine_with_gpus_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, "echo NVIDIA H200; echo NVIDIA H200", monkeypatch)
    where = record.where()
    assert where["gpus"] == ["NVIDIA H200"] * 2 and record.machine(where).endswith(" and 2 x NVIDIA H200")


def test_a_machine_without_gpus_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, "echo no devices were found; exit 6", monkeypatch)
    assert record.gpus() == []
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert record.gpus() == []
    assert record.machine({"cores": 2, "processor": "of before there was a list"}).startswith("2 cores of ")
