"""What the options of both commands may be."""

import argparse
import math
from pathlib import Path

from mooring_bench.asking import STOCK
from mooring_bench.prompts import CannotMeasure


def names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"must be names with commas between them, each once, got {text!r}")
    return found


def named_url(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not (name and equals and url):
        raise argparse.ArgumentTypeError(f"must be NAME=URL, got {text!r}")
    return name, url


def stock_url(text: str) -> tuple[str, str]:
    return STOCK, text


def count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def numbers(text: str) -> tuple[int, ...]:
    found = tuple(_whole(number.strip(), text) for number in text.split(","))
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, each once, got {text!r}")
    return found


def _whole(number: str, text: str) -> int:
    if not number.isascii() or not number.isdigit():
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between them, got {text!r}")
    return int(number)


def not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be a number, 0 or above, got {text!r}")
    return value


def ladder(text: str) -> list[int]:
    rungs = [count(rung.strip()) for rung in text.split(",")]
    if sorted(set(rungs)) != rungs:
        raise argparse.ArgumentTypeError(f"must rise, each number once, got {text!r}")
    return rungs


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be seconds above 0, got {text!r}")
    return value


def check_writable(path: Path | None) -> None:
    """Before anything is asked, so that no measurement is lost for want of a place."""
    if path is not None and (not path.parent.is_dir() or path.is_dir()):
        raise CannotMeasure(f"cannot write to {path}: name a file in a folder that exists")
