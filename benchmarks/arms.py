"""What is compared, and the servers behind it: all started once, and asked one at a time.

    stock        vLLM with nothing of Mooring loaded
    again        a second server of it: what two starts of one thing differ by
    off          Mooring, every request under `off`: measured, never touched
    default      Mooring, every request under the default profile
    measuring    Mooring with nothing capped: no profile but `off`, so only the monitored layer's norm is changed
    unmeasured   the same on a server with MOORING_READINGS=0: the cap without the readings
    unkept       the same on a server with MOORING_HISTORY=off: measured, and not kept
    sixteen      Mooring with 16 profiles of 15 axes, 16 different ones in a batch
    hundred      Mooring with 128 profiles of 127 axes, asked for in turn

All get the same options of vLLM and the same environment, but for the plugin. Only the one that is measured runs: for a
second after its last answer a vLLM worker keeps looking for work as fast as it can, on the core where the next one's
worker is, so the others' processes are stopped meanwhile (SIGSTOP).

Servers stay in the session of the client. From a session of its own the engine core of a small model, which does not
rest while it has work, can keep the client and its own API process waiting on two cores for as long as an answer lasts:
of a wave of 16 requests one answer then comes after the other. (Linux schedules each session as a group: autogroup.)
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from load import CannotMeasure, Target

START_LIMIT: Final = 600.0
"""Seconds."""
PLUGIN: Final = "mooring"
SET_HERE: Final = ("VLLM_", "MOORING_READINGS", "MOORING_HISTORY")
SLOTS: Final = {"sixteen": 16, "hundred": 128}
"""Of servers with a profile file: `off`, DEFAULT, and one profile for each further axis fill them."""
DEFAULT: Final = "default"
"""What a profile file's default is called."""
OFF: Final = "off"
MEASURING: Final = Path(__file__).with_name("measuring.yaml")


def more_profiles(slots: int) -> list[str]:
    """Those besides `off` and DEFAULT; each has an axis of its own."""
    return [f"axis-{number:02d}" for number in range(1, slots - 1)]


def profile_file(slots: int) -> str:
    return f"profiles-{slots}.yaml"


class Arm(NamedTuple):
    """One of those that are compared."""

    server: str
    """Key of SERVERS."""
    asked: tuple[str | None, ...]
    """Profiles that its requests ask for, in turn; None asks for none."""


ARMS: Final = {
    "stock": Arm("stock", (None,)),
    "again": Arm("again", (None,)),
    "off": Arm("mooring", (OFF,)),
    "default": Arm("mooring", (None,)),
    "measuring": Arm("measuring", (None,)),
    "unmeasured": Arm("unmeasured", (None,)),
    "unkept": Arm("unkept", (None,)),
    **{name: Arm(name, (OFF, None, *more_profiles(slots))) for name, slots in SLOTS.items()},
}
BASELINE: Final = "stock"
WITHOUT: Final = ("stock", "again")
"""Servers without Mooring."""


class Subject(NamedTuple):
    """The model that is served."""

    name: str
    folder: str
    """What stock vLLM loads."""
    served: str
    """What `mooring serve` is given."""
    default: str
    """Its default profile, where no profile file is given."""
    vocabulary: int
    axis: tuple[str, ...]
    """Options that name its axis."""
    profiles: Path
    """Folder of the profile files for the servers in SLOTS."""
    kv_gib: int


class Server:
    """A server in processes of its own."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self.port = _free_port()
        self._command = [*command, "--port", str(self.port)]
        self._environment = dict(environment)
        self._processes: list[psutil.Process] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.base}/v1/completions"

    def start(self) -> None:
        """Return once it answers."""
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, process_group=0
            )
        deadline = time.monotonic() + START_LIMIT
        while not self._answers():
            self.check()
            if time.monotonic() > deadline:
                raise CannotMeasure(f"the {self.name} server did not answer in {START_LIMIT:.0f} s; see {self.log}")
            time.sleep(0.5)
        parent = psutil.Process(self._process.pid)
        self._processes = [parent, *parent.children(recursive=True)]

    def check(self) -> None:
        """Raise if it has stopped."""
        if (code := self._process.poll()) is not None:
            raise CannotMeasure(f"the {self.name} server stopped with code {code}: {self._last_words()}")

    def cpu_by_process(self) -> dict[str, float]:
        """User and system time so far, by what vLLM calls a process; `api` is the one that was started."""
        found: dict[str, float] = {}
        try:
            for process in self._processes:
                name = "api" if process.pid == self._process.pid else process.name().removeprefix("VLLM::")
                found[name] = found.get(name, 0.0) + sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess as gone:
            raise CannotMeasure(f"process {gone.pid} of the {self.name} server is gone: {self._last_words()}") from None
        return found

    def suspend(self) -> None:
        """Take the processor from all of its processes, until `resume`."""
        for process in self._processes:
            process.suspend()

    def resume(self) -> None:
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def stop(self) -> None:
        """Stop it with all its processes."""
        if not hasattr(self, "_process"):
            return
        self.resume()
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if "Error" in line or "mooring:" in line]
        return f"{(telling or lines or ['it said nothing'])[-1][:300]} ({self.log})"


def servers(subject: Subject, arms: Sequence[str], options: Sequence[str], folder: Path) -> dict[str, Server]:
    """Those that the arms need, not started."""
    made = {}
    for name in dict.fromkeys(ARMS[arm].server for arm in arms):
        command, environment = command_of(name, subject, options), environment_of(name, subject, os.environ)
        made[name] = Server(name, [sys.executable, *command], environment, folder / f"{name}.log")
    return made


def start_all(servers: Mapping[str, Server], backwards: bool, say: Callable[[str], None]) -> None:
    """One after the other."""
    for server in list(servers.values())[:: -1 if backwards else 1]:
        say(f"starting the {server.name} server ...")
        server.start()


def stop_all(servers: Mapping[str, Server]) -> None:
    for server in servers.values():
        server.stop()


def command_of(name: str, subject: Subject, options: Sequence[str]) -> list[str]:
    """Arguments of Python that start a server; the port is still to come."""
    own = ["--served-model-name", subject.name, *options]
    if name in WITHOUT:
        return [str(Path(__file__).with_name("stock_server.py")), subject.folder, *own]
    serve = ["-c", "from mooring_server.cli import main; main()", "serve", subject.served, *subject.axis]
    if (slots := SLOTS.get(name)) is not None:
        serve += ["--profiles", str(subject.profiles / profile_file(slots)), "--slots", str(slots)]
    elif name == "measuring":
        serve += ["--profiles", str(MEASURING)]
    return [*serve, *own]


def environment_of(name: str, subject: Subject, given: Mapping[str, str]) -> dict[str, str]:
    """The caller's, with one set of vLLM's variables for all; `mooring serve` adds its plugin by itself."""
    kept = {key: value for key, value in given.items() if not key.startswith(SET_HERE)}
    plugins = [word for word in given.get("VLLM_PLUGINS", "").split(",") if word != PLUGIN]
    return {
        **kept,
        "VLLM_CPU_KVCACHE_SPACE": str(subject.kv_gib),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": ",".join(plugins),
        "VLLM_USE_AOT_COMPILE": "0",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        **({"MOORING_READINGS": "0"} if name == "unmeasured" else {}),
        "XDG_STATE_HOME": str(subject.profiles.parent),  # where a server keeps its history unless it is told not to
        **({"MOORING_HISTORY": "off"} if name == "unkept" else {}),
    }


def target(arm: str, subject: Subject, server: Server) -> Target:
    """Where an arm's requests go."""
    asked = ARMS[arm].asked
    default = default_of(ARMS[arm].server, subject)
    answered = [profile or default for profile in asked]
    return Target(server.url, subject.name, subject.vocabulary, asked, answered)


def default_of(server: str, subject: Subject) -> str | None:
    """Profile under which requests that name none are answered; None without Mooring."""
    if server in WITHOUT:
        return None
    return DEFAULT if server in SLOTS else OFF if server == "measuring" else subject.default


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
