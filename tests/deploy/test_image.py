"""The image and what runs it: linted, of the compose specification, and `vllm serve` in it never uncapped."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.prometheus import DEPLOY
from mooring_hooks.engine import VLLM_VERSION

ROOT = DEPLOY.parent
BIN = Path(sys.executable).parent
DOCKERFILES = [ROOT / "Dockerfile", DEPLOY / "image" / "cpu.Dockerfile"]
SCRIPT = DEPLOY / "image" / "vllm"
ECHO = '#!/bin/sh\necho "$0" "$@"\n'


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_has_no_lint(path: Path) -> None:
    run(BIN / "hadolint", "--failure-threshold", "style", path)


def test_versions_are_those_of_the_package_and_of_the_vllm_it_is_made_for() -> None:
    text = (ROOT / "Dockerfile").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {*re.findall(r"vllm-openai:v([\d.]+)", text)} == {VLLM_VERSION}
    assert re.findall(r'image\.version="([^"]+)"', text) == [version]
    assert set(re.findall(r"psycopg\S+==\S+|psycopg==\S+", text)) <= {*pinned()}
    tag = f"{version}-vllm{VLLM_VERSION}"
    assert compose("compose.yaml")["services"]["mooring"]["image"] == f"mooring:{tag}"
    values = yaml.safe_load((DEPLOY / "kubernetes" / "values-production-stack.yaml").read_text())
    assert values["servingEngineSpec"]["modelSpec"][0]["tag"] == tag


def test_the_entrypoint_is_that_of_vllms_image_and_by_its_name_mooring_comes_first() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE) == ['["vllm", "serve"]']
    assert "COPY --chmod=755 deploy/image/vllm /opt/mooring/bin/vllm" in text
    assert re.findall(r"\bPATH=(\S+)", text) == ["/opt/mooring/bin:${PATH}"]


def pinned() -> list[str]:
    return (DEPLOY / "requirements" / "dev.txt").read_text().splitlines()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH as in the image: Mooring's folder first, then one with `mooring` and vLLM's own `vllm`."""
    own, others = tmp_path / "mooring", tmp_path / "others"
    own.mkdir()
    others.mkdir()
    (own / "vllm").symlink_to(SCRIPT)
    for name in ("vllm", "mooring"):
        (others / name).write_text(ECHO)
        (others / name).chmod(0o755)
    return f"{own}:{others}:/usr/bin:/bin"


CAPPED = ["--worker-cls", "mooring_hooks.worker.Worker", "--additional-config", '{"mooring": {}}']


@pytest.mark.parametrize(
    ("given", "runs"),
    [
        (["serve", "Qwen/Qwen3-32B", "--port", "80"], ["mooring", "serve", "Qwen/Qwen3-32B", "--port", "80"]),
        (["serve", "M", "--worker-cls", "another.Worker"], ["mooring", "serve", "M", "--worker-cls", "another.Worker"]),
        (["serve", "M", *CAPPED], ["vllm", "serve", "M", *CAPPED]),
        (["bench", "serve"], ["vllm", "bench", "serve"]),
        ([], ["vllm"]),
    ],
)
def test_vllm_serve_by_name_is_mooring_serve(path: str, given: list[str], runs: list[str]) -> None:
    said = run("vllm", *given, env={"PATH": path})
    others = Path(path.split(":")[1])
    assert said == " ".join([str(others / runs[0]), *runs[1:]]) + "\n"


class Resetting(yaml.SafeLoader):
    """Knows Compose's `!reset`: what a file before said is taken back."""


RESET = object()
Resetting.add_constructor("!reset", lambda loader, node: RESET)


def compose(*names: str) -> dict[str, Any]:
    """The files one upon another, as `docker compose -f ... -f ...` reads them."""
    merged: dict[str, Any] = {}
    for name in names:
        merged = upon(merged, yaml.load((DEPLOY / name).read_text(), Resetting))
    return merged


def upon(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    both = below | {key: upon(below.get(key), value) for key, value in above.items()}
    return {key: value for key, value in both.items() if value is not RESET}


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.cpu.yaml")], ids="+".join)
def test_compose_files_are_of_the_specification(names: tuple[str, ...], tmp_path: Path) -> None:
    whole = compose(*names)
    (tmp_path / "compose.json").write_text(json.dumps(whole))
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", tmp_path / "compose.json")
    assert all(":" in service["image"] and "latest" not in service["image"] for service in whole["services"].values())
    assert ("deploy" in whole["services"]["mooring"]) == (len(names) == 1)


def test_what_compose_mounts_and_builds_is_there() -> None:
    for service in compose("compose.yaml", "compose.cpu.yaml")["services"].values():
        for volume in service["volumes"]:
            if volume.startswith("./"):
                assert (DEPLOY / volume.split(":")[0]).exists()
    for name in ("compose.yaml", "compose.cpu.yaml"):
        assert (ROOT / compose(name)["services"]["mooring"]["build"]["dockerfile"]).is_file()


def test_the_example_of_settings_names_every_variable() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    named = set(re.findall(r"^(\w+)=", (DEPLOY / ".env.example").read_text(), re.MULTILINE))
    assert named == asked


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_a_dockerfile_copies_is_not_ignored(dockerfile: Path) -> None:
    own = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
    ignore = own if own.exists() else ROOT / ".dockerignore"
    kept = {line.removeprefix("!") for line in ignore.read_text().splitlines() if line.startswith("!")}

    def is_kept(path: str) -> bool:
        return not kept.isdisjoint([path, *map(str, Path(path).parents)])

    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = {*wheel["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    needed = {"pyproject.toml", wheel["project"]["readme"], *wheel["project"]["license-files"], *rooms}
    assert [path for path in needed if not is_kept(path)] == []
    named = re.findall(r"^(?:RUN|COPY[^\n]*) (deploy/\S+)", dockerfile.read_text(), re.MULTILINE)
    assert named and [path for path in named if not is_kept(path)] == []
    assert all((ROOT / path).exists() for path in kept)


def test_grafana_is_given_the_dashboards_and_the_data_source_that_is_there() -> None:
    whole = compose("compose.yaml")["services"]
    mounts = {volume.split(":")[1]: volume.split(":")[0] for volume in whole["grafana"]["volumes"]}
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/mooring.yaml").read_text())["providers"][0]
    assert provider["options"]["path"] in mounts
    home = Path(whole["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (DEPLOY / mounts[str(home.parent)] / home.name).is_file()
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in whole
    scraping = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]
    assert scraping["scrape_configs"][0]["static_configs"][0]["targets"] == ["mooring:8000"]
