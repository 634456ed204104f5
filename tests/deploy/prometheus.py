"""A real Prometheus on what deploy/ gives it, and the questions that Grafana would ask it."""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

from servers import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
LIMIT = 60.0
RATE_INTERVAL = "1m"
"""What stands for $__rate_interval: at least four scrapes, and all that a test has done."""

Json = dict[str, Any]


class Prometheus:
    """deploy/prometheus/prometheus.yml with these targets and short intervals; started on entry, stopped on exit."""

    def __init__(self, targets: Sequence[str], folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self._port}/api/v1", timeout=20)
        (folder / "rules").symlink_to(DEPLOY / "prometheus" / "rules")
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = list(targets)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> "Prometheus":
        options = {"config.file": "prometheus.yml", "storage.tsdb.path": "data",
                   "web.listen-address": f"127.0.0.1:{self._port}"}  # fmt: skip
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                ["prometheus", *(f"--{name}={value}" for name, value in options.items())],
                cwd=self._folder, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(20)

    def query(self, expr: str) -> list[Json]:
        """The series that an expression finds now."""
        found: list[Json] = self._get("query", {"query": expr})["result"]
        return found

    def values(self, expr: str, label: str) -> Mapping[str, float]:
        return {series["metric"][label]: float(series["value"][1]) for series in self.query(expr)}

    def label_values(self, selector: str, label: str) -> list[str]:
        found: list[str] = self._get(f"label/{label}/values", {"match[]": selector})
        return found

    def rules(self) -> list[Json]:
        return [rule for group in self._get("rules", {})["groups"] for rule in group["rules"]]

    def wait_for(self, expr: str) -> None:
        """Until an expression finds something."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            try:
                if self.query(expr):
                    return
            except httpx.HTTPError:  # not listening yet, or not ready
                assert self._process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.2)
        raise AssertionError(f"Prometheus found nothing for {expr} in {LIMIT:.0f} s")

    def _get(self, path: str, parameters: Mapping[str, str]) -> Any:
        answer = self._http.get(path, params=dict(parameters))
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            answer.raise_for_status()
        reply = answer.json()
        assert reply["status"] == "success", f"{parameters}: {reply.get('error')}"
        return reply["data"]


def questions(board: Json) -> Iterator[tuple[Json, str]]:
    """Every panel with every expression of it, variables replaced as Grafana would with "All" chosen."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel, replaced(target["expr"])


def replaced(text: str) -> str:
    return re.sub(r"\$(?!__)\w+", ".*", text.replace("$__rate_interval", RATE_INTERVAL))
