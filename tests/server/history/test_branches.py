"""The branches of a conversation, whatever order its turns come in."""

import itertools
from typing import Any

import pytest

from mooring_server.history.branches import branches


def turn(node: str, parent: str = "") -> dict[str, Any]:
    return {"node": node, "parent": parent}


@pytest.mark.parametrize(
    ("turns", "found"),
    [
        ([], []),
        ([turn("a"), turn("b", "a"), turn("c", "b")], [0, 0, 0]),
        ([turn("a"), turn("b", "a"), turn("c", "a"), turn("d", "b"), turn("e", "c")], [0, 0, 1, 0, 1]),  # an edit
        ([turn("a"), turn("b"), turn("c", "b")], [0, 1, 1]),  # another choice of n, which the user took
        ([turn("a"), turn("a"), turn("b", "a")], [0, 0, 0]),  # the same answer once more
        ([turn("b", "gone"), turn("c", "b"), turn("d", "other")], [0, 0, 1]),  # its beginning has been retired
        ([turn(""), turn("")], [0, 1]),  # completions: nothing tells that they belong together
        ([turn("a"), turn("", "a"), turn("b", "a")], [0, 0, 1]),
        ([turn("a", "b"), turn("b", "a")], [0, 0]),  # no conversation is like that
    ],
)
def test_branches(turns: list[dict[str, Any]], found: list[int]) -> None:
    assert branches(turns) == found


def test_a_turn_may_come_before_the_one_that_it_answers() -> None:
    turns = [turn("a"), turn("b", "a"), turn("c", "b"), turn("x", "c")]
    for mixed in itertools.permutations(turns):
        assert branches(mixed) == [0, 0, 0, 0]


def test_a_long_conversation_needs_no_recursion() -> None:
    turns = [turn(str(i), str(i - 1)) for i in range(1, 50_000)]
    assert set(branches(turns)) == set(branches(turns[::-1])) == {0}
