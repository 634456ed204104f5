"""Write what is made of something else: the dashboards, and the alerts as a Kubernetes resource.

python deploy/generate.py            write the files
python deploy/generate.py --check    exit with 1 and name those that differ
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

import dashboards

HERE = Path(__file__).parent
RULES = HERE / "prometheus" / "rules" / "mooring.yml"


def main(arguments: Sequence[str]) -> int:
    stale = [(path, text) for path, text in files() if not path.is_file() or path.read_text() != text]
    if arguments == ["--check"]:
        for path, _ in stale:
            print(f"{path.relative_to(HERE.parent)} is not what its source makes: run python deploy/generate.py")
        return int(bool(stale))
    if arguments:
        print(__doc__)
        return 2
    for path, text in stale:
        path.write_text(text)
    return 0


def files() -> Iterator[tuple[Path, str]]:
    """Every generated file and its text."""
    for name, make in dashboards.ALL.items():
        yield HERE / "grafana" / "dashboards" / f"{name}.json", json.dumps(make(), indent=2) + "\n"
    yield HERE / "kubernetes" / "prometheusrule.yaml", prometheus_rule()


def prometheus_rule() -> str:
    """The rules for the Prometheus operator."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "mooring", "labels": {"app.kubernetes.io/name": "mooring"}},
        "spec": yaml.safe_load(RULES.read_text()),
    }
    text = yaml.dump(resource, Dumper=Dumper, sort_keys=False, width=110)
    return f"# Made of prometheus/rules/mooring.yml by `python deploy/generate.py`.\n{text}"


class Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, _text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
