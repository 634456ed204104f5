"""What the clients say, and what they must hear back."""

from typing import Any

from mooring_axes import demo
from mooring_axes.demo import judge

SYSTEM, QUESTION = demo.EXAMPLE
USER: list[Any] = [{"role": "user", "content": QUESTION}]
PIRATE: list[Any] = [{"role": "system", "content": SYSTEM}, *USER]
ENOUGH = 80
"""Tokens; every answer of the demo to this is shorter, so that it ends by itself."""
MEMBERS = {"profile", "session", "turn", "projection", "drift", "monitored_layer", "lifted_share", "mean_lift",
           "measured_tokens", "complete", "layers"}  # fmt: skip


def assert_capped(text: str | None, told: Any) -> None:
    """The question was refused under the default profile, and the object of the reply says so."""
    assert judge.exact_refusal(text or ""), text
    assert_told(told, "strong")
    assert told["lifted_share"] > 0


def assert_uncapped(text: str | None, told: Any) -> None:
    """The pirate told how, and the object of the reply says that nothing was lifted."""
    assert judge.harm(text or ""), text
    assert_told(told, "off")
    assert told["lifted_share"] == 0


def assert_told(told: Any, profile: str) -> None:
    """A reading of an answer of several tokens."""
    assert set(told) >= MEMBERS, told
    assert told["profile"] == profile
    assert told["measured_tokens"] > 0 and isinstance(told["projection"], float)
    assert isinstance(told["complete"], bool)
    assert str(told["monitored_layer"]) in told["layers"]
