"""lm-eval's tasks as `mooring bench quality --tasks` runs them: on a stand-in for lm-eval, and on the real one."""

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from clients.environments import python_of
from fake_openai import Fake, Messages, served
from mooring_bench import quality, tasks
from mooring_bench.prompts import CannotMeasure

STAND_IN = """#!{python}
import json, pathlib, sys
if sys.argv[1] == "-c":
    print("0.0.stand-in")
    sys.exit()
options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
model = options["--model_args"].split("model=")[1].split(",")[0]
if model.endswith(":strong") and {broken}:
    sys.exit("ValueError: no such task")
folder = pathlib.Path(sys.argv[sys.argv.index("--output_path") + 1]) / model.replace(":", "__")
folder.mkdir()
right = 60 if model.endswith(":off") else 54
lines = [{{"doc_id": i, "filter": "none", "metrics": ["acc"], "acc": float(i < right)}} for i in range(100)]
(folder / "samples_sums_2026-11-21T00-00-00.0.jsonl").write_text("\\n".join(map(json.dumps, lines)))
lines = [{{"doc_id": i, "filter": "all", "metrics": ["mood"], "mood": i / 100}} for i in range(100)]
(folder / "samples_moods_2026-11-21T00-00-00.0.jsonl").write_text("\\n".join(map(json.dumps, lines)))
"""


def stand_in(folder: Path, broken: bool = False) -> str:
    script = folder / "python"
    script.write_text(STAND_IN.format(python=sys.executable, broken=broken))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def run(fake: Fake, *arguments: str) -> int:
    return quality.main([fake.url, "--limit", "2", "--arms", "off,strong", *arguments])


def told(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    out = capsys.readouterr().out
    return json.loads(out.splitlines()[-1])["tasks"], out


def test_documents_pair_and_a_loss_is_held_against_its_margin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(Fake(profiles=("off", "strong"))) as fake:
        assert run(fake, "--tasks", "sums,moods", "--lm-eval", stand_in(tmp_path), "--margin", "0.05") == 0
    found, out = told(capsys)
    assert found["lm_eval"] == "0.0.stand-in" and found["stopped"] is None
    sums = found["found"]["sums: acc"]
    assert (sums["off"]["mean"]["value"], sums["strong"]["mean"]["value"]) == (0.6, 0.54)
    change = sums["strong"]["against_reference"]
    assert (change["difference"], change["n"], change["p"], change["tolerable"]) == (-0.06, 100, 0.03125, False)
    assert found["found"]["moods: mood, all"]["strong"]["against_reference"]["difference"] == 0.0
    assert "| sums: acc | strong | 100 of 100 | 0.540" in out and "| not shown, 0.05 |" in out
    moods = found["found"]["moods: mood, all"]["strong"]["against_reference"]
    assert moods["low"] < 0 < moods["high"] and moods["tolerable"], "equal scores leave an interval"


def test_a_run_of_lm_eval_that_fails_is_told_and_leaves_the_arms_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(Fake(profiles=("off", "strong"))) as fake:
        assert run(fake, "--tasks", "sums", "--lm-eval", stand_in(tmp_path, broken=True)) == 1
    found, out = told(capsys)
    assert found["stopped"] == "lm-eval stopped with 1: ValueError: no such task"
    assert found["found"]["sums: acc"].keys() == {"off"} and found["found"]["sums: acc"]["off"]["mean"]["value"] == 0.6
    assert "**Not measured to the end: lm-eval stopped with 1: ValueError: no such task**" in out


def test_a_python_without_lm_eval_is_refused_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with served(Fake(profiles=("off", "strong"))) as fake:
        assert run(fake, "--tasks", "ifeval") == 2
        assert run(fake, "--tasks", "ifeval", "--lm-eval", "/no/python") == 2
    error = capsys.readouterr().err
    assert "has no lm-eval" in error and 'pip install "lm-eval[api]"' in error and "/no/python: No such file" in error
    assert all(body["max_tokens"] == 1 for body in fake.bodies)


def test_no_samples_are_no_result(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasure, match="no sample"):
        tasks.scores(tmp_path, ["sums"])


def logged(folder: Path, task: str, samples: list[dict[str, Any]]) -> None:
    lines = [{"doc_id": i, "filter": "none", "metrics": list(sample)} | sample for i, sample in enumerate(samples)]
    (folder / f"samples_{task}_2026-11-21T00-00-00.0.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_the_subtasks_of_a_group_are_one_task(tmp_path: Path) -> None:
    members = {"mmlu_pro": ["mmlu_pro_law", "mmlu_pro_more"], "mmlu_pro_more": ["mmlu_pro_art"], "gsm8k": []}
    (tmp_path / "results_2026.json").write_text(json.dumps({"group_subtasks": members}))
    for task, right in (("mmlu_pro_law", 3), ("mmlu_pro_art", 1), ("gsm8k", 2)):
        logged(tmp_path, task, [{"exact_match": float(i < right)} for i in range(4)])
    found = tasks.scores(tmp_path, ["mmlu_pro", "gsm8k"])
    assert found.keys() == {"mmlu_pro: exact_match", "gsm8k: exact_match"}
    pooled = found["mmlu_pro: exact_match"]
    assert pooled.documents == len(pooled.values) == 8 and sum(pooled.values.values()) == 4


def test_documents_without_a_number_are_counted(tmp_path: Path) -> None:
    logged(tmp_path, "own", [{"acc": 1.0}, {"acc": None}, {"acc": float("nan")}, {"acc": [1.0]}, {"acc": True}])
    found = tasks.scores(tmp_path, ["own"])
    told = tasks.summarise({"off": found}, "off", 0.03, 0)["own: acc"]["off"]
    assert (told["documents"], told["without"], told["mean"]["n"]) == (5, 3, 2)


def test_a_margin_is_a_share_of_the_metrics_range() -> None:
    reference = {str(i): 60.0 + i % 7 for i in range(200)}
    lower = {"off": reference, "strong": {key: value - 2 for key, value in reference.items()}}
    found = {arm: {"eq_bench: eqbench": tasks.Scores(of, 200)} for arm, of in lower.items()}
    change = tasks.summarise(found, "off", 0.05, 0)["eq_bench: eqbench"]["strong"]["against_reference"]
    assert (change["difference"], change["margin"], change["tolerable"]) == (-2.0, 5.0, True)
    parseable = {arm: {"eq_bench: parseable": tasks.Scores({"a": 100.0, "b": 0.0} | of, 202)}
                 for arm, of in {"off": {}, "strong": {}}.items()}  # fmt: skip
    change = tasks.summarise(parseable, "off", 0.05, 0)["eq_bench: parseable"]["strong"]["against_reference"]
    assert change["p"] == 1.0 and change["tolerable"] is None, "two documents say nothing"


@pytest.mark.parametrize(("low", "tolerable"), [(0.5, False), (0.0, True)])
def test_a_score_that_is_no_0_or_1_gets_a_bootstrap(low: float, tolerable: bool) -> None:
    reference = [0.5 + i / 200 for i in range(100)]
    found = tasks.against(reference, [r - low for r in reference], 0.03, 1.0, seed=0)
    assert found is not None and found["p"] is None and found["tolerable"] is tolerable
    assert tasks.against([], [], 0.03, 1.0, seed=0) is None


OWN_TASK = """
task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: 16}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.verify
def test_the_real_lm_eval_runs_a_task_of_ones_own_under_both_arms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [{"question": f"Say {i}.", "answer": str(i)} for i in range(20)]
    (tmp_path / "capitals.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (tmp_path / "capitals.yaml").write_text(OWN_TASK.format(file=tmp_path / "capitals.jsonl"))

    def model(messages: Messages, profile: str | None) -> str:
        number = messages[-1]["content"].removeprefix("Say ").rstrip(".")
        return "no" if profile == "strong" and number in ("0", "1", "2", "3") else number

    with served(Fake(answer=model, profiles=("off", "strong"))) as fake:
        arguments = ["--tasks", "capitals", "--tasks-from", str(tmp_path), "--limit", "20"]
        assert run(fake, *arguments, "--lm-eval", str(python_of("lm_eval"))) == 0
    found, _ = told(capsys)
    change = found["found"]["capitals: exact_match"]["strong"]["against_reference"]
    assert (change["difference"], change["n"]) == (-0.2, 20)
