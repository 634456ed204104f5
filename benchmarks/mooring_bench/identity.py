"""Which model answers at a URL, and whether it is the embedded demo.

The demo is known by the digest of its axis, which GET /v1/mooring/axis tells, or by the folder that it was loaded from,
`root` in GET /v1/models: without Mooring there is no axis.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import PurePath
from typing import Any, Final, NamedTuple

from mooring_axes import demo
from mooring_axes.artifact import Axis

AXIS_PATH: Final = "/v1/mooring/axis"
DEMO_FOLDER: Final = demo.MODEL_DIR.parts[-3:]
"""Wherever it is installed."""


class Identity(NamedTuple):
    """Of a served model."""

    root: str | None
    """What it was loaded from: a hub's name, or the last part of a folder's."""
    axis: str | None
    """Digest of its axis; None without Mooring."""
    axis_of: str | None
    """The model from which the axis was extracted."""
    demo: bool


def identity(entry: Mapping[str, Any], axis: Mapping[str, Any]) -> Identity:
    """Of an entry of GET /v1/models and what GET /v1/mooring/axis says, nothing without Mooring."""
    root, digest = entry.get("root"), axis.get("digest")
    is_demo = digest == demo_axis() or PurePath(root or "").parts[-3:] == DEMO_FOLDER
    named = PurePath(root).name if root and PurePath(root).is_absolute() else root
    return Identity(named, digest, axis.get("model"), is_demo)


@cache
def demo_axis() -> str:
    """Digest of the embedded demo's axis."""
    return Axis.load(demo.AXIS_FILE).digest
