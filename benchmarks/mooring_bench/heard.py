"""What came back from one block of load, in numbers.

    ttft    time to the first token, ms           itl    time between two tokens of one answer, ms
    e2e     a whole answer, ms                    tokens_per_s   generated tokens of answers that succeeded
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

PERCENTILES: Final = (50, 90, 99)
ERRORS_SHOWN: Final = 3


@dataclass(slots=True)
class Heard:
    """Of the requests of one arm in one block; seconds. A request that failed is in `errors` alone."""

    seconds: float = 0.0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def answered(self, tokens: int, first: float, gaps: Sequence[float], whole: float) -> None:
        self.tokens += tokens
        self.first.append(first)
        self.gaps += gaps
        self.whole.append(whole)

    def told(self) -> dict[str, Any]:
        """For the result; None where nothing succeeded."""
        return {
            "seconds": round(self.seconds, 4),
            "succeeded": len(self.whole),
            "failed": len(self.errors),
            "errors": list(dict.fromkeys(self.errors))[:ERRORS_SHOWN],
            "tokens": self.tokens,
            "tokens_per_s": self.tokens / self.seconds if self.tokens and self.seconds else None,
            "ttft_ms": _percentiles(self.first),
            "itl_ms": _percentiles(self.gaps),
            "e2e_ms": _percentiles(self.whole),
        }


def _percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    values = np.percentile(np.asarray(seconds) * 1e3, PERCENTILES)
    return {f"p{p}": round(float(value), 4) for p, value in zip(PERCENTILES, values, strict=True)}
