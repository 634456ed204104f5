"""JSON and YAML of Grafana and Kubernetes, held against the types that Grafana and the operator publish."""

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clients.environments import node, node_packages
from deploy.prometheus import DEPLOY

HERE = Path(__file__).parent / "types"
BOARDS = [json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))]


class Checker:
    """Asks TypeScript which of some values are not of the types they should be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        packages = node_packages("types", HERE / "package.json")
        self._compiler = [str(node()), str(packages / "node_modules" / "typescript" / "bin" / "tsc")]
        (folder / "node_modules").symlink_to(packages / "node_modules")
        shutil.copy(HERE / "types.ts", folder)

    def complaints(self, values: Iterator[tuple[str, Any]]) -> str:
        """What is wrong, in TypeScript's words; empty if nothing is."""
        consts = (f"export const v{i}: T.{kind} = {json.dumps(value)};" for i, (kind, value) in enumerate(values))
        (self._folder / "values.ts").write_text('import type * as T from "./types";\n' + "\n".join(consts))
        options = "--noEmit --strict --skipLibCheck --target es2022 --module esnext --moduleResolution bundler"
        command = [*self._compiler, *options.split(), "values.ts"]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 1, 2), done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    return Checker(tmp_path_factory.mktemp("types"))


def typed(board: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(type, value) of a dashboard, and of what its own type leaves open in its panels."""
    yield "Board", board
    for panel in board["panels"]:
        if panel["type"] != "row":
            yield f"OptionsOf[{json.dumps(panel['type'])}]", panel["options"]
        if panel["type"] == "timeseries":
            yield "Lines", panel["fieldConfig"]["defaults"]["custom"]


def resource(name: str) -> Any:
    return yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())


def test_dashboards_and_resources_are_of_their_types(checker: Checker) -> None:
    resources = [("Rule", resource("prometheusrule")), ("Monitor", resource("servicemonitor"))]
    values = [value for board in BOARDS for value in typed(board)]
    assert checker.complaints(iter([*values, *resources])) == ""


def test_what_is_of_no_type_is_found(checker: Checker) -> None:
    board, monitor = copy.deepcopy(BOARDS[0]), copy.deepcopy(resource("servicemonitor"))
    line = next(panel for panel in board["panels"] if panel["type"] == "timeseries")
    line["gridPos"]["w"] = "wide"
    line["options"]["legend"]["displayMode"] = "tabel"
    line["fieldConfig"]["defaults"]["custom"]["drawStyle"] = "lines"
    monitor["spec"]["endpoint"] = monitor["spec"].pop("endpoints")
    found = checker.complaints(iter([*typed(board), ("Monitor", monitor)]))
    for complaint in ("to type 'number'", """'"tabel"'""", """'"lines"'""", """'"endpoint"' does not exist"""):
        assert complaint in found
