"""Where prompts come from: files, the embedded demo's sets, or the general ones.

The demo was trained on a vocabulary of its own, and its questions say nothing of another model: they are asked where
the demo is served, or where `demo` is named. Every other model gets the general sets of general.jsonl, which
benchmarks/make_general.py writes: capability by four kinds of rules, plain harmful requests, the same under personas,
and talks about code, writing, troubles and philosophy. They are small and mild, and meant for a first look: bring
prompts and a judge of your own for a verdict.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mooring_bench.demo_sets import demo_prompts
from mooring_bench.identity import Identity
from mooring_bench.prompts import Prompt, each_once, read_prompts

DEMO: Final = "demo"
GENERAL: Final = "general"
GENERAL_FILE: Final = Path(__file__).with_name("general.jsonl")


def prompts_of(sources: Sequence[str], seed: int) -> list[Prompt]:
    """Of DEMO, drawn with `seed`, GENERAL and files, in this order."""
    files = [GENERAL_FILE if source == GENERAL else Path(source) for source in sources if source != DEMO]
    return each_once([*(demo_prompts(seed) if DEMO in sources else ()), *(read_prompts(files) if files else ())])


def usual(who: Identity) -> str:
    """What a model is asked where nobody says."""
    return DEMO if who.demo else GENERAL
