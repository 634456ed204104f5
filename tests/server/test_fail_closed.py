"""A start that would serve uncapped does not serve: each way, in real processes, with the message that names it."""

from pathlib import Path

import pytest

from mooring_server.plan import make_plan
from mooring_server.serve import split
from servers import Server, vllm_serve

pytestmark = pytest.mark.engine

BROKEN = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise ImportError("broken by hand")
sys.meta_path.insert(0, Broken())
"""


def stock_command(tmp_path: Path, *drop: str) -> tuple[list[str], list[str], dict[str, str]]:
    """(command, arguments, environment) of the printed line, without the named options."""
    options, rest = split(["demo"])
    plan = make_plan(options, rest, {})
    arguments = list(plan.argv)
    for name in drop:
        at = arguments.index(name)
        del arguments[at : at + 2]
    return vllm_serve(tmp_path), arguments, dict(plan.environment)


def failing_start(tmp_path: Path, *drop: str, broken: str = "") -> str:
    command, arguments, environment = stock_command(tmp_path, *drop)
    if broken:
        (tmp_path / "sitecustomize.py").write_text(BROKEN.format(module=broken))
        environment["PYTHONPATH"] = str(tmp_path)
    with Server([*arguments, "--enforce-eager"], tmp_path / "log", command, **environment) as server:
        assert server.wait_until_stopped() != 0
        return server.log


def test_the_stock_worker_stops_the_start(tmp_path: Path) -> None:
    log = failing_start(tmp_path, "--worker-cls")
    assert "cannot serve: not every worker caps with this server's table" in log
    assert "--worker-cls mooring_hooks.worker.Worker" in log


def test_a_general_plugin_that_cannot_be_imported_stops_the_start(tmp_path: Path) -> None:
    assert "cannot serve: mooring's general plugin was not loaded" in failing_start(
        tmp_path, broken="mooring_hooks.plugin"
    )


def test_an_endpoint_plugin_that_cannot_be_imported_stops_the_start(tmp_path: Path) -> None:
    assert "cannot serve: Mooring's endpoint plugin cannot be loaded" in failing_start(
        tmp_path, broken="mooring_server.plugin"
    )


def test_a_worker_without_settings_stops_the_start(tmp_path: Path) -> None:
    assert "--additional-config has no 'mooring' settings" in failing_start(tmp_path, "--additional-config")


def test_the_printed_command_serves(tmp_path: Path) -> None:
    command, arguments, environment = stock_command(tmp_path)
    with Server(arguments, tmp_path / "log", command, **environment) as server:
        assert "self-test passed" in server.wait_until_ready().log
