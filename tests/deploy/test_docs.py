"""deploy/README.md and runbooks.md: what they point at is there."""

import re
from pathlib import Path

import pytest

import dashboards
from deploy.prometheus import DEPLOY

PAGES = sorted(DEPLOY.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    paths = re.findall(r"\bdeploy/[\w./-]*\w", text)
    assert links + paths
    assert [link for link in links if not (DEPLOY / link).exists()] == []
    assert [path for path in paths if path != "deploy/files" and not (DEPLOY.parent / path).exists()] == []


def test_runbooks_name_alerts_panels_and_dashboards_that_are_there() -> None:
    text = (DEPLOY / "runbooks.md").read_text()
    boards = [make() for make in dashboards.ALL.values()]
    there = {*re.findall(r"^## (\w+)$", text, re.MULTILINE), *(board["title"] for board in boards)}
    there |= {panel["title"] for board in boards for panel in board["panels"]}
    named = set(re.findall(r"\*([^*\n]+)\*", text))
    assert named and named <= there
