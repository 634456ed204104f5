"""A real `mooring serve` in processes of its own, and what it printed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import httpx

from mooring_axes import demo
from mooring_server.plan import DEMO_OPTIONS, QUIET

START_LIMIT = 400.0
VLLM_SERVE = """
import sys
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
if __name__ == "__main__":
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
    ServeSubcommand.cmd(arguments)
"""
"""`vllm serve`: the CPU build's own `vllm` command cannot start."""

DEMO: Final = ("--dtype", "float32", "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
               "--enable-prompt-tokens-details")  # fmt: skip
"""Options of the demo servers that test files share, beside those of `mooring serve demo`."""
STOCK: Final = QUIET | {"VLLM_PLUGINS": "", "VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_USE_AOT_COMPILE": "0",
                        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}  # fmt: skip


class Server:
    """Started on entry, stopped with all its processes on exit; `.log` is everything it printed."""

    def __init__(self, arguments: Sequence[str], log: Path, command: Sequence[str] = (), **environment: str) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._command = [*(command or mooring("serve")), *arguments, "--port", str(self.port)]
        self._environment = plain_environment() | environment

    def __enter__(self) -> "Server":
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_until_ready(self) -> "Server":
        """Return once it answers; raise with its log if it stops before."""
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server stopped with {self.process.returncode}:\n{self.log[-4000:]}")
            try:
                httpx.get(f"{self.base}/health").raise_for_status()
                return self
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError(f"the server did not answer in {START_LIMIT:.0f} s:\n{self.log[-4000:]}")

    def wait_until_stopped(self) -> int:
        """The exit code of a start that must fail; the port must never have answered."""
        code = self.process.wait(START_LIMIT)
        assert not answers(self.port)
        return code


def mooring_demo(folder: Path) -> Server:
    return Server(["demo", *DEMO], folder / "log")


def stock_demo(folder: Path) -> Server:
    """The same model on vLLM as it comes."""
    options = (word for option in DEMO_OPTIONS.items() for word in option)
    arguments = [str(demo.MODEL_DIR), "--served-model-name", "demo", "--uvicorn-log-level", "warning", *options, *DEMO]
    return Server(arguments, folder / "log", vllm_serve(folder), **STOCK)


def mooring(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from mooring_server.cli import main; main()", *arguments]


def vllm_serve(folder: Path) -> list[str]:
    """The command of stock vLLM, from a script in `folder`: its worker processes import the main module."""
    script = folder / "vllm_serve.py"
    script.write_text(VLLM_SERVE)
    return [sys.executable, str(script)]


def plain_environment() -> dict[str, str]:
    """Of a user's shell: without what the in-process engines of other tests set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "OMP_"))}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
