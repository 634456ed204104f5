"""Turns of one session -> the branches of its conversation.

A turn answers the conversation that ends at the turn whose `node` is its `parent`. The first turn that does so goes on
with that turn's branch; each later one (an edited message, another choice of n, a second try) opens a new one. Turns
with equal nodes are at the same place. A turn may come before the one that it answers: those of several API processes
arrive a little out of order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Place = str | int
"""A node, or the index of a turn that has none."""


def branches(turns: Sequence[Mapping[str, Any]]) -> list[int]:
    """The branch of each turn; 0 is the first."""
    places: list[Place] = [turn["node"] or i for i, turn in enumerate(turns)]
    parents: dict[Place, Place] = {}
    for place, turn in zip(places, turns, strict=True):
        parents.setdefault(place, turn["parent"])
    heirs: dict[Place, Place] = {}
    for place, parent in parents.items():
        heirs.setdefault(parent, place)
    found: dict[Place, int] = {}
    opened = 0
    for place in parents:
        for node in reversed(_line(place, parents, found)):
            parent = parents[node]
            if parent in found and heirs[parent] == node:
                found[node] = found[parent]
            else:
                found[node], opened = opened, opened + 1
    return [found[place] for place in places]


def _line(place: Place, parents: Mapping[Place, Place], found: Mapping[Place, int]) -> list[Place]:
    """A place, its parent, and so on, up to one whose branch is known or that answers nothing known."""
    line: dict[Place, None] = {}
    while place in parents and place not in found and place not in line:
        line[place] = None
        place = parents[place]
    return list(line)
