"""The result of a load run as one HTML page: intervals and every pair as a plot. It needs nothing from anywhere."""

import html
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mooring_bench.load_result import SHOWN, card

WIDTH, ROW, LABELS = 860, 26, 190
STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
pre { overflow-x: auto; font-size: 12px; } h2 { font-size: 1.1rem; margin-top: 2rem; }
"""


def page(result: Mapping[str, Any]) -> str:
    plots = "\n".join(_plots(result))
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{_title(result)}</title>'
        f"<style>{STYLE}</style>\n<h1>{_title(result)}</h1>\n{plots}\n"
        f"<h2>All numbers</h2>\n<pre>{html.escape(card(result))}</pre>\n</html>\n"
    )


def _title(result: Mapping[str, Any]) -> str:
    return html.escape(f"Load: {', '.join(arm['name'] for arm in result['arms'])}")


def _plots(result: Mapping[str, Any]) -> Iterator[str]:
    baseline = result["arms"][0]["name"]
    for number, title in SHOWN.items():
        rows = [
            (f"{arm if arm != baseline else f'{arm}, null'}, {rung} at a time", found["ratios"][number])
            for rung, arms in result["results"].items()
            for arm, found in arms.items()
        ]
        known = [(label, ratio) for label, ratio in rows if ratio["median"] is not None]
        if known:
            yield f"<h2>{html.escape(title)}, ratio to {html.escape(baseline)}</h2>\n{_forest(known)}"


def _forest(rows: list[tuple[str, Mapping[str, Any]]]) -> str:
    """A line per arm: its interval, its median, and every pair as a dot, on a log scale around 1."""
    values = [v for _, r in rows for v in (*r["pairs"], r["median"], r["low"], r["high"]) if v]
    reach = max(max(abs(math.log(v)) for v in values), math.log(1.02)) * 1.08
    height = ROW * len(rows) + 34

    def x(value: float) -> float:
        return round(LABELS + (WIDTH - LABELS - 70) * (math.log(value) / reach + 1) / 2, 1)

    marks = "".join(_line(label, ratio, ROW * i + 20, x) for i, (label, ratio) in enumerate(rows))
    ends = [math.exp(-reach), math.exp(-reach / 2), 1.0, math.exp(reach / 2), math.exp(reach)]
    ticks = "".join(f'<text x="{x(e)}" y="{height - 4}" text-anchor="middle">{e:.3f}</text>' for e in ends)
    one = f'<line x1="{x(1)}" x2="{x(1)}" y1="4" y2="{height - 18}" stroke="currentColor" stroke-dasharray="3 3"/>'
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{one}{marks}{ticks}</svg>'


def _line(label: str, ratio: Mapping[str, Any], y: int, x: Any) -> str:
    dots = "".join(f'<circle cx="{x(p)}" cy="{y}" r="3" fill="#888" fill-opacity=".45"/>' for p in ratio["pairs"] if p)
    interval = ""
    if ratio["low"] is not None:
        ends = f'x1="{x(ratio["low"])}" x2="{x(ratio["high"])}" y1="{y}" y2="{y}"'
        interval = f'<line {ends} stroke="#2a6fdb" stroke-width="3"/>'
    return (
        f'<text x="0" y="{y + 4}">{html.escape(label)}</text>{dots}{interval}'
        f'<circle cx="{x(ratio["median"])}" cy="{y}" r="5" fill="#2a6fdb"/>'
        f'<text x="{WIDTH - 60}" y="{y + 4}">{ratio["median"]:.3f}</text>'
    )
