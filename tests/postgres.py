"""A real PostgreSQL of one's own: Debian's programs, a folder of its own, an unprivileged user where we are root."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import psycopg

from servers import free_port

NOBODY = "nobody"


class Postgres:
    """Started on entry; stopped and deleted on exit."""

    def __init__(self) -> None:
        self.port = free_port()
        self._databases = 0

    def __enter__(self) -> "Postgres":
        self._folder = Path(tempfile.mkdtemp(prefix="mooring-postgres-"))
        if os.geteuid() == 0:
            shutil.chown(self._folder, NOBODY)
        self._run("initdb", "-D", self._data, "-U", "mooring", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def start(self) -> None:
        # fsync matters when the machine dies, and no test does that.
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off -c autovacuum=off"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-o", options, "-l", str(self._folder / "log"))

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is what a crash leaves behind."""
        self._run("pg_ctl", "stop", "-w", "-D", self._data, "-m", mode)

    def database(self) -> str:
        """The address of a new, empty database."""
        self._databases += 1
        name = f"history{self._databases}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql://mooring@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> None:
        user = NOBODY if os.geteuid() == 0 else None
        command = [str(_programs() / program), *arguments]
        done = subprocess.run(command, cwd=self._folder, user=user, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout.decode()


def _programs() -> Path:
    """Debian keeps those of the server out of the PATH."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"))
