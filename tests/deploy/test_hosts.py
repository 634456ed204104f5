"""What runs without containers, and Kubernetes' files as one: scripts, the systemd unit, the kustomization."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.prometheus import DEPLOY

SCRIPTS = [*sorted(DEPLOY.glob("*.sh")), DEPLOY / "image" / "vllm", DEPLOY.parent / ".ci" / "run"]
PROGRAM = "/opt/mooring/.venv/bin/mooring"


def complaints(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert complaints("shellcheck", script) == ""


def unit(tmp_path: Path, text: str) -> Path:
    """The unit where its program is there: systemd looks for it."""
    path = tmp_path / "mooring.service"
    path.write_text(text.replace(PROGRAM, shutil.which("true") or "true"))
    return path


def test_systemd_says_nothing_about_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "mooring.service").read_text()
    assert PROGRAM in text
    assert complaints("systemd-analyze", "verify", unit(tmp_path, text)) == ""


def test_systemd_would_say_what_is_wrong_with_a_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "mooring.service").read_text().replace("KillMode", "KillMod")
    assert "KillMod" in complaints("systemd-analyze", "verify", unit(tmp_path, text))


def test_the_units_settings_are_in_its_environment_file() -> None:
    text = (DEPLOY / "systemd" / "mooring.service").read_text()
    settings = (DEPLOY / "systemd" / "mooring.env").read_text().splitlines()
    named = {line.split("=")[0] for line in settings if not line.startswith("#")}
    assert {"MOORING_MODEL", "MOORING_ARGUMENTS", "VLLM_API_KEY"} <= named
    assert all(f"${name}" in text for name in named if name.startswith("MOORING_"))


def test_the_kustomization_names_what_is_there() -> None:
    cluster = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert all((DEPLOY / "kubernetes" / name).exists() for name in cluster["resources"])
    grafana = yaml.safe_load((DEPLOY / "grafana" / "kustomization.yaml").read_text())
    boards = {f"dashboards/{path.name}" for path in (DEPLOY / "grafana" / "dashboards").glob("*.json")}
    assert {*grafana["configMapGenerator"][0]["files"]} == boards
    assert grafana["generatorOptions"]["labels"] == {"grafana_dashboard": "1"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which Debian packages too old")
def test_kustomize_makes_the_monitor_the_rules_and_the_dashboards() -> None:
    made = subprocess.run(["kubectl", "kustomize", DEPLOY / "kubernetes"], capture_output=True, text=True, check=True)
    kinds = {resource["kind"]: resource for resource in yaml.safe_load_all(made.stdout)}
    assert {*kinds} == {"ConfigMap", "PrometheusRule", "ServiceMonitor"}
    assert {*kinds["ConfigMap"]["data"]} == {"mooring-drift.json", "mooring-health.json"}
