"""Which of an answer's tokens are thinking, which is no part of what the answer says.

A model that thinks writes it between two marks, and the server's reasoning parser knows which. Where both marks are
single tokens, thinking is what comes before the first end mark, or all there is where a mark, in the answer or at the
end of the prompt, has begun it and none has ended it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from mooring_hooks.progress import say


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks, as token ids."""

    start: int | None
    """None where only the prompt begins thinking."""
    end: int

    @classmethod
    def of(cls, parser: Any, tokenizer: Any, name: str) -> Self | None:
        """Those of a reasoning parser of vLLM's; None where it has no such marks, and that is said."""
        start, end = _token(tokenizer, parser.reasoning_start_str), _token(tokenizer, parser.reasoning_end_str)
        if end is None:
            say(f"the reasoning parser {name!r} knows no token that ends thinking: readings are of thinking, too")
            return None
        return cls(start, end)

    def opened_by(self, prompt: Sequence[int]) -> bool:
        """Whether an answer to it begins as thinking."""
        for token in reversed(prompt):
            if token in (self.start, self.end):
                return token == self.start
        return False

    def length(self, answer: list[int], opened: bool) -> int:
        """How many of the answer's first tokens are thinking."""
        if self.end in answer:
            return answer.index(self.end) + 1
        return len(answer) if opened or self.start in answer else 0


def _token(tokenizer: Any, mark: str | None) -> int | None:
    ids = tokenizer.encode(mark, add_special_tokens=False) if mark else []
    return int(ids[0]) if len(ids) == 1 else None
