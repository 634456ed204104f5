"""What `mooring serve --history` says, and what it never prints."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from histories import append, counted, eventually, record
from mooring_axes.errors import CannotServe
from mooring_server import serve as serve_module
from mooring_server.cli import run
from mooring_server.history.location import (
    DAYS_VARIABLE,
    HISTORY_VARIABLE,
    check,
    described,
    open_store,
    variables,
    without_password,
)
from mooring_server.history.queries import Filter
from mooring_server.history.start import start
from mooring_server.plan import make_plan
from mooring_server.record import Sinks
from mooring_server.serve import split
from postgres import Postgres

SECRET = "s3cr3t%21"


def planned(*arguments: str, **environment: str) -> Any:
    options, rest = split(["demo", *arguments])
    return make_plan(options, rest, environment)


def test_a_history_is_kept_unless_it_is_switched_off(tmp_path: Path) -> None:
    made = planned(XDG_STATE_HOME=str(tmp_path))
    assert made.environment[HISTORY_VARIABLE] == str(tmp_path / "mooring" / "history.sqlite")
    assert made.environment[DAYS_VARIABLE] == "30"
    assert any("kept for 30 days" in note and str(tmp_path) in note for note in made.notes)
    assert not list(tmp_path.iterdir())  # a plan makes nothing
    off = planned("--history", "off")
    assert off.environment[HISTORY_VARIABLE] == "off" and "no history of turns is kept" in off.notes


def test_a_history_that_all_may_read_and_erase_is_spoken_of() -> None:
    def said(*arguments: str, **environment: str) -> bool:
        return any("list and erase sessions" in note for note in planned(*arguments, **environment).notes)

    assert said() and said(VLLM_API_KEY="")
    assert not said("--history", "off") and not said(VLLM_API_KEY="secret")
    for given in (("--api-key", "secret"), ("--api-key=secret",), ("--api_key", "secret"), ("--config", "x.yaml")):
        assert not said(*given)


def test_without_a_folder_for_state_it_is_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert planned().environment[HISTORY_VARIABLE] == f"{tmp_path}/.local/state/mooring/history.sqlite"


def test_a_path_means_the_same_file_to_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert planned("--history", "x.db", "--history-days", "7.5").environment[HISTORY_VARIABLE] == f"{tmp_path}/x.db"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@db:5432/x",
        f"postgres://me:{SECRET}@[::1]/x?sslmode=require",
        f"postgresql://db/x?user=me&password={SECRET}&sslpassword={SECRET}",
        f"postgresql://me:{SECRET}@a,b:1/x",
    ],
)
def test_a_password_is_never_printed(url: str) -> None:
    made = planned("--history", url)
    assert made.environment[HISTORY_VARIABLE] == url
    told = made.command() + "".join(made.notes) + without_password(url)
    assert SECRET not in told and "***" in told and "postgres" in told


def test_what_the_environment_says_stays_and_is_not_printed() -> None:
    environment = {HISTORY_VARIABLE: f"postgresql://me:{SECRET}@db/x", DAYS_VARIABLE: "forever"}
    made = planned(**environment)
    assert not {HISTORY_VARIABLE, DAYS_VARIABLE} & set(made.environment)
    assert "postgres" not in made.command()
    (note,) = [note for note in made.notes if "every turn is kept" in note]
    assert "for ever" in note and SECRET not in note
    assert planned("--history", "off", **environment).environment[HISTORY_VARIABLE] == "off"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--history", "mysql://me@db/x"), "postgresql://USER@HOST/DATABASE, or off"),
        (("--history", ""), "give a path"),
        (("--history-days", "0"), "a number above 0, or forever"),
        (("--history-days", "-3"), "a number above 0, or forever"),
        (("--history-days", "nan"), "a number above 0, or forever"),
        (("--history-days", "soon"), "a number above 0, or forever"),
    ],
)
def test_what_is_not_understood_is_refused(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(CannotServe, match=said):
        planned(*arguments)


def test_a_history_that_cannot_be_opened_stops_the_start_before_vllm_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve_module, "_run_vllm", lambda plan: pytest.fail("it went on"))
    monkeypatch.setattr(serve_module, "check_port", lambda rest: None)
    (tmp_path / "file").touch()
    assert run(["serve", "demo", "--history", str(tmp_path / "file" / "x.sqlite")]) == 2
    assert "--history off" in capsys.readouterr().err


def test_a_database_that_is_away_stops_no_start_and_is_spoken_of_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []
    monkeypatch.setattr(serve_module, "_run_vllm", served.append)
    monkeypatch.setattr(serve_module, "check_port", lambda rest: None)
    monkeypatch.setattr(serve_module.os, "environ", dict(serve_module.os.environ))
    assert run(["serve", "demo", "--history", f"postgresql://me:{SECRET}@127.0.0.1:1/x"]) == 0
    said = capsys.readouterr().err
    assert len(served) == 1
    assert "me:***@127.0.0.1:1/x does not answer" in said and "their turns wait" in said and SECRET not in said


def test_turns_wait_for_a_database_that_is_away_at_the_start(
    postgres: Postgres, capfd: pytest.CaptureFixture[str]
) -> None:
    location, rows = postgres.database(), counted("mooring_history_rows_total")
    postgres.stop()
    try:
        kept, sinks = started({HISTORY_VARIABLE: location})
        sinks.tell([record(at=time.time())])
        eventually(lambda: "takes no turns" in capfd.readouterr().err)
    finally:
        postgres.start()
    eventually(lambda: counted("mooring_history_rows_total") == rows + 1)
    assert len(kept.store.trajectory("s", 10)) == 1


def test_checking_makes_the_tables_so_that_api_processes_find_them(location: str) -> None:
    environment = {HISTORY_VARIABLE: location, DAYS_VARIABLE: "30"}
    check(environment)
    store = open_store(location)
    assert store is not None and store.newest() == 0
    assert location in described(environment)
    check({HISTORY_VARIABLE: "off"})
    check({})


def started(environment: Mapping[str, str]) -> tuple[Any, Sinks]:
    sinks = Sinks(failed=lambda name: pytest.fail(f"the sink {name} failed"))
    return start(environment, sinks, lambda: False), sinks


def test_an_api_process_keeps_what_it_is_told(location: str) -> None:
    rows = counted("mooring_history_rows_total")
    kept, sinks = started({HISTORY_VARIABLE: location})
    sinks.tell([record(at=time.time(), choice=choice) for choice in (0, 1)])
    eventually(lambda: counted("mooring_history_rows_total") == rows + 2)
    assert [turn["choice"] for turn in kept.store.turns(Filter(), 0, 10)] == [0, 1]


def test_an_api_process_without_the_variable_keeps_nothing() -> None:
    kept, sinks = started({})
    sinks.tell([record()])
    assert kept.store is None


def test_what_is_not_measured_is_not_kept_and_the_past_can_be_read(location: str) -> None:
    check({HISTORY_VARIABLE: location})
    kept = start({HISTORY_VARIABLE: location}, None, lambda: False)
    append(kept.store, [record()])  # type: ignore[arg-type]
    assert len(kept.store.turns(Filter(), 0, 10)) == 1  # type: ignore[union-attr]
    assert variables(None, None, {HISTORY_VARIABLE: location}) == {DAYS_VARIABLE: "30"}
