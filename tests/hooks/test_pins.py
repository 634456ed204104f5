"""vLLM's internals that Mooring leans on, pinned: when one moves, this says which and what depends on it.

The list is tests/pins.py, which can be held against any release's source; here against the one that is installed.
"""

import json
from pathlib import Path

import pytest
import vllm

import pins
from mooring_hooks.engine import VLLM_VERSION
from pins import PINS, Pin, broken, check, check_import, imported, installed

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "hooks/mooring_hooks/worker.py",
    "hooks/mooring_hooks/runner_v1.py",
    "hooks/mooring_hooks/runner_v2.py",
    "hooks/mooring_hooks/engine.py",
    "server/mooring_server/plugin.py",
}


def test_the_version_is_the_one_that_was_read() -> None:
    assert vllm.__version__.split("+")[0] == VLLM_VERSION


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: f"{pin.where or pin.file}:{pin.wants[:30]}")
def test_what_is_leant_on_still_stands(pin: Pin) -> None:
    assert check(installed(), pin) is None


def test_every_name_that_is_imported_is_there() -> None:
    assert len(imported()) > 20
    assert [fault for name, user in imported() if (fault := check_import(installed(), name, user))] == []


def test_requests_are_made_in_one_place_only() -> None:
    folder = installed() / "v1"
    callers = [p.name for p in folder.rglob("*.py") if "Request.from_engine_core_request(" in p.read_text()]
    assert callers == ["core.py"]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A vLLM in which things have moved."""
    (tmp_path / "v1" / "engine").mkdir(parents=True)
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "v1" / "engine" / "core.py").write_text(
        "class EngineCore:\n    def preprocess_add_request(self, wave, request):\n        return Request(request)\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("pin", "found"),
    [
        (Pin("v1/engine/core.py", "EngineCore.preprocess_add_request", "(self, request)", ""), "(self, wave, request)"),
        (Pin("v1/engine/core.py", "EngineCore.preprocess_add_request", "Request.from(", ""), "the text is gone"),
        (Pin("v1/engine/core.py", "EngineCore.step", "(self)", ""), "no such name"),
        (Pin("v1/engine/cores.py", "EngineCore", "(self)", ""), "no such file"),
    ],
)
def test_what_has_moved_is_named(pin: Pin, found: str, other: Path) -> None:
    fault = check(other, pin)
    assert fault is not None and fault.found == found and fault.wanted == pin.wants


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("vllm.v1.engine.core.EngineCore", None),
        ("vllm.v1.engine.core", None),
        ("vllm.v1.engine.core.Nothing", "no such name"),
        ("vllm.v2.engine.core.EngineCore", "no such module"),
    ],
)
def test_a_name_that_can_no_longer_be_imported_is_named(name: str, found: str | None, other: Path) -> None:
    fault = check_import(other, name, "worker.py")
    assert (fault and fault.found) == found


@pytest.mark.verify
def test_the_newest_release_is_held_against_the_list(tmp_path: Path) -> None:
    """The pinned version's own source archive breaks nothing; the newest one's list is written down."""
    _, same = pins.download(VLLM_VERSION, tmp_path)
    assert broken(same) == []
    pins.main([])
    written = json.loads(pins.RESULT.read_text())
    assert written["pins"] == len(PINS) and written["made_for"] == VLLM_VERSION
    assert (written["vllm"] == VLLM_VERSION) <= (written["broken"] == [])


def test_only_these_files_import_vllm() -> None:
    importing = {user for _, user in imported()}
    commands = {"server/mooring_server/serve.py", "benchmarks/mooring_bench/stock_client.py"}
    library = {"server/mooring_server/offline.py"}
    assert importing <= ALLOWED | commands | library, "vLLM's own commands, and vllm.LLM: no internals"


def test_arrows_run_from_server_to_hooks_to_axes() -> None:
    forbidden = {
        "axes": ("mooring_hooks", "mooring_server", "mooring_bench"),
        "hooks": ("mooring_server", "mooring_bench"),
        "benchmarks/mooring_bench": ("mooring_hooks", "mooring_server"),
    }
    for room, names in forbidden.items():
        for path in (ROOT / room).rglob("*.py"):
            assert not any(f"import {n}" in path.read_text() or f"from {n}" in path.read_text() for n in names), path
