"""Whatever the scheduler does to a request, its tokens and its cap stay the same.

One start with a small token budget (64) and a small KV cache (24 blocks of 32), so that prompts are chunked and
requests are preempted; prefix caching is on. test_runner_v2.py runs this file again on vLLM's V2 model runner: what
equals the replay on both is equal.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.input_processor import InputProcessor

from engines import Engine, close, logprobs_of, sampling_params, stock_engine
from mooring_axes.errors import CannotServe
from mooring_axes.profiles import ResolvedProfile
from mooring_hooks.engine import TRUST
from mooring_hooks.rows import BlockLedger, ForeignBlock
from parity import greedy_tokens, layer_set_profiles, logprob_gap, projection_gap, readings_gap, replay_answer
from tiny import Replay, median_projections, prompts, random_axis

pytestmark = pytest.mark.engine

TIGHT = {"dtype": "float32", "max_num_batched_tokens": 64, "num_gpu_blocks_override": 24}
TEXTS = prompts(9, seed=1)
PROFILES = ["off", "several", "all"]


class Bench(NamedTuple):
    engine: Engine
    replay: Replay
    profiles: dict[str, ResolvedProfile]
    stock: list[Any]
    """Answers of vLLM without Mooring to TEXTS."""


@pytest.fixture(scope="module")
def bench(tiny_model: Callable[[str], Path]) -> Iterator[Bench]:
    folder, axis = tiny_model("qwen3"), random_axis()
    llm = stock_engine(folder, **TIGHT)
    stock = llm.generate([{"prompt_token_ids": t} for t in TEXTS], sampling_params(None, 12), use_tqdm=False)
    close(llm)
    replay = Replay(folder, axis)
    profiles = layer_set_profiles(axis, median_projections(replay, TEXTS))
    engine = Engine(folder, list(profiles.values()), default="several", **TIGHT)
    yield Bench(engine, replay, profiles, stock)
    engine.close()


@pytest.fixture(autouse=True)
def _empty_cache(bench: Bench) -> None:
    bench.engine.llm.reset_prefix_cache()


def tokens(outputs: list[Any]) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def equal_the_replay(bench: Bench, outputs: list[Any], names: list[str]) -> None:
    """Tokens, their logprobs, and the readings of every generated position at every site."""
    for output, name in zip(outputs, names, strict=True):
        replayed = replay_answer(bench.replay, output, bench.profiles[name])
        assert list(output.outputs[0].token_ids) == greedy_tokens(replayed, output)
        assert logprob_gap(replayed, output) <= 1e-3
        assert readings_gap(replayed, output, bench.engine.table.layers) <= 1e-3


def metric(engine: Engine, name: str) -> float:
    return sum(m.value for m in engine.llm.get_metrics() if m.name == name)


def test_off_equals_stock_vllm_alone_and_beside_capped_requests(bench: Bench) -> None:
    alone = bench.engine.answer(TEXTS, "off")
    assert tokens(alone) == tokens(bench.stock)
    bench.engine.llm.reset_prefix_cache()
    beside = bench.engine.answer([*TEXTS, *TEXTS], ["off"] * len(TEXTS) + ["all"] * len(TEXTS))
    assert tokens(beside[: len(TEXTS)]) == tokens(bench.stock)
    for one, other in zip(alone, bench.stock, strict=True):
        assert logprobs_of(one) == pytest.approx(logprobs_of(other), abs=1e-3)


def test_three_profiles_in_one_batch_each_equal_their_solo_run(bench: Bench) -> None:
    names = [PROFILES[i % 3] for i in range(len(TEXTS))]
    together = bench.engine.answer(TEXTS, names)
    for text, name, output in zip(TEXTS, names, together, strict=True):
        bench.engine.llm.reset_prefix_cache()
        (solo,) = bench.engine.answer([text], name)
        assert tokens([solo]) == tokens([output])
        assert logprobs_of(solo) == pytest.approx(logprobs_of(output), abs=1e-4)
    equal_the_replay(bench, together, names)


def test_a_request_that_names_no_profile_gets_the_default(bench: Bench) -> None:
    equal_the_replay(bench, bench.engine.answer(TEXTS[:3], None), ["several"] * 3)


@pytest.mark.parametrize("name", ["several", "all", "response"])
def test_a_chunked_prompt_is_capped_in_every_chunk(bench: Bench, name: str) -> None:
    (text,) = prompts(1, seed=2, lengths=(200, 220))
    (output,) = bench.engine.answer([text], name)
    assert output.reading["positions"] == list(range(len(text) + 11))
    equal_the_replay(bench, [output], [name])
    assert projection_gap(replay_answer(bench.replay, output, bench.profiles[name]), output) <= 1e-2


@pytest.mark.parametrize("name", ["off", "several", "response"])
def test_a_second_turn_reads_its_own_profiles_cache(bench: Bench, name: str) -> None:
    (text,) = prompts(1, seed=3, lengths=(100, 101))
    (first,) = bench.engine.answer([text], name)
    (second,) = bench.engine.answer([[*text, *first.outputs[0].token_ids, 7, 8]], name)
    assert first.num_cached_tokens == 0 and second.num_cached_tokens == 96
    equal_the_replay(bench, [first, second], [name, name])


def test_preempted_requests_resume_with_the_same_tokens(bench: Bench) -> None:
    texts = prompts(12, seed=4, lengths=(60, 90))
    names = [[*PROFILES, "response"][i % 4] for i in range(12)]
    before = metric(bench.engine, "vllm:num_preemptions")
    outputs = bench.engine.answer(texts, names, max_tokens=40)
    assert metric(bench.engine, "vllm:num_preemptions") > before
    equal_the_replay(bench, outputs, names)


def test_all_of_n_choices_are_capped(bench: Bench) -> None:
    (output,) = bench.engine.answer([TEXTS[0]], "all", n=3, temperature=1.0, seed=1)
    assert len({tuple(choice.token_ids) for choice in output.outputs}) > 1
    for choice, rows in zip(output.outputs, output.rows, strict=True):
        replayed = bench.replay.run([*TEXTS[0], *choice.token_ids], bench.profiles["all"])
        start = len(TEXTS[0]) - 1
        wanted = [float(replayed.logprobs[start + i, token]) for i, token in enumerate(choice.token_ids)]
        found = [step[token].logprob for step, token in zip(choice.logprobs, choice.token_ids, strict=True)]
        assert found == pytest.approx(wanted, abs=1e-3)
        for layer, projections in zip(bench.engine.table.layers, rows.projections, strict=True):
            read = replayed.projections[layer][start + 1 : start + len(choice.token_ids)].tolist()
            assert projections.tolist() == pytest.approx(read, rel=1e-3, abs=1e-3)


def test_a_stop_ends_the_same_tokens_earlier(bench: Bench) -> None:
    (whole,) = bench.engine.answer([TEXTS[1]], "all")
    stop = whole.outputs[0].token_ids[5]
    (cut,) = bench.engine.answer([TEXTS[1]], "all", stop_token_ids=[stop])
    first = list(whole.outputs[0].token_ids).index(stop)
    assert list(cut.outputs[0].token_ids) == list(whole.outputs[0].token_ids)[: first + 1]


def test_an_abort_leaves_its_neighbours_alone(bench: Bench) -> None:
    engine = bench.engine.llm.llm_engine
    tickets = [bench.engine.inbox.open() for _ in PROFILES * 2]
    for i, name in enumerate(PROFILES * 2):
        parameters = sampling_params(name, 12)
        parameters.extra_args |= tickets[i].to_extra_args(TRUST)
        engine.add_request(f"abort-{i}", {"prompt_token_ids": TEXTS[i]}, parameters)
    for _ in range(4):
        engine.step()
    engine.abort_request([f"abort-{i}" for i in range(3)])
    finished = {}
    while engine.has_unfinished_requests():
        finished |= {output.request_id: output for output in engine.step() if output.finished}
    assert sorted(finished) == ["abort-3", "abort-4", "abort-5"]
    for i in range(3, 6):
        finished[f"abort-{i}"].rows = [bench.engine.rows(tickets[i].number, 12)]
    equal_the_replay(bench, [finished[f"abort-{i}"] for i in range(3, 6)], PROFILES)


def test_a_neighbour_that_nobody_measures_costs_no_reading(bench: Bench) -> None:
    engine = bench.engine.llm.llm_engine
    ticket = bench.engine.inbox.open()
    for i, extra in enumerate(({}, ticket.to_extra_args(TRUST), {})):
        parameters = sampling_params("all", 6)
        parameters.extra_args |= extra
        engine.add_request(f"mixed-{i}", {"prompt_token_ids": TEXTS[i]}, parameters)
    finished = {}
    while engine.has_unfinished_requests():
        finished |= {output.request_id: output for output in engine.step() if output.finished}
    finished["mixed-1"].rows = [bench.engine.rows(ticket.number, 6)]
    equal_the_replay(bench, [finished["mixed-1"]], ["all"])


# --- what CUDA graphs ask for --------------------------------------------------------------------


def addresses(bench: Bench) -> dict[tuple[int, str], int]:
    """Where everything lies that the graph reads or writes for the cap."""
    sites = bench.engine.worker.capping.sites
    return {(s.layer, name): buffer.data_ptr() for s in sites for name, buffer in s.module.named_buffers()}


def test_the_runner_is_the_one_that_was_asked_for(bench: Bench) -> None:
    v2 = os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "1"
    worker = bench.engine.worker
    assert (type(worker.capping.runner).__name__, worker.vllm_config.use_v2_model_runner) == (
        ("RunnerV2", True) if v2 else ("RunnerV1", False)
    )
    assert worker.vllm_config.scheduler_config.async_scheduling == (v2 or worker.device.type == "cuda")


def test_what_the_graph_reads_and_writes_keeps_its_address(bench: Bench) -> None:
    """A captured graph is replayed with the addresses of its capture."""
    before, worker = addresses(bench), bench.engine.worker
    assert {pointer for (_, name), pointer in before.items() if name == "mooring_rows"} == {
        worker.capping.rows.data_ptr()
    }
    for names in ("off", "all", ["off", "several", "response"] * 3):
        bench.engine.answer(TEXTS if isinstance(names, list) else TEXTS[:2], names, max_tokens=3)
    worker.sleep(1)
    worker.wake_up()
    worker.reload_weights()
    assert addresses(bench) == before


def test_warm_up_and_dummy_runs_leave_no_reading(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, sent = bench.engine.worker, []
    monkeypatch.setattr(worker.capping.readings, "_send", lambda *args: sent.append(args))
    worker.capping.watch.begin("")  # every request there is
    worker.compile_or_warm_up_model()
    shapes = [dummy.shape for dummy in worker.capping.runner.dummies(16) if dummy.run() is not None]
    assert shapes == ["mixed", "decode"]
    assert worker.capping.watch.end("") == {} and not sent
    if worker.vllm_config.use_v2_model_runner:  # V2 also warms up with requests as if from a client
        from vllm.v1.core.sched.output import SchedulerOutput
        from vllm.v1.worker.gpu.warmup import run_mixed_prefill_decode_warmup

        done = SchedulerOutput.make_empty()
        done.finished_req_ids = set(worker.model_runner.req_states.req_id_to_index)
        worker.execute_model(done)
        worker.capping.watch.begin("_v2_mixed_warmup_")
        assert run_mixed_prefill_decode_warmup(worker.model_runner, worker.execute_model, worker.sample_tokens, 40)
        assert len(worker.capping.watch.end("_v2_mixed_warmup_")) == 2 and not sent


# --- isolation -----------------------------------------------------------------------------------


LONG = prompts(1, seed=5, lengths=(130, 131))[0]


def without_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolation switched off by hand: vLLM's own method, as it would be without the plugin."""
    monkeypatch.setattr(EngineCore, "preprocess_add_request", EngineCore.preprocess_add_request.__wrapped__)


def test_kv_of_one_profile_is_never_read_under_another(bench: Bench) -> None:
    names = ["off", "all", "several", "response", "off"]
    outputs = [bench.engine.answer([LONG], name)[0] for name in names]
    assert [output.num_cached_tokens for output in outputs] == [0, 0, 0, 128, 128]
    equal_the_replay(bench, outputs, names)


def test_generated_blocks_of_a_response_profile_are_private(bench: Bench) -> None:
    (first,) = bench.engine.answer([LONG], "response", max_tokens=70)
    grown = [*LONG, *first.outputs[0].token_ids]
    for name in ("response", "off"):
        (second,) = bench.engine.answer([grown], name)
        assert second.num_cached_tokens == 128
        equal_the_replay(bench, [second], [name])
        bench.engine.llm.reset_prefix_cache()
        bench.engine.answer([LONG], "response", max_tokens=70)


def test_without_the_salt_an_answer_is_contaminated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    without_salt(monkeypatch)
    monkeypatch.setattr(BlockLedger, "check", lambda *args, **kwargs: None)
    bench.engine.answer([LONG], "off")
    (capped,) = bench.engine.answer([LONG], "all")
    assert capped.num_cached_tokens == 128
    assert logprob_gap(replay_answer(bench.replay, capped, bench.profiles["all"]), capped) > 0.05


def test_without_admission_the_second_net_refuses_a_name_that_is_not_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bench.engine.llm.llm_engine
    with pytest.raises(VLLMValidationError, match="choose one of off, one, several"):
        engine.add_request("first-net", {"prompt_token_ids": LONG}, sampling_params("nope", 4))
    monkeypatch.setattr(InputProcessor, "process_inputs", InputProcessor.process_inputs.__wrapped__)
    with pytest.raises(CannotServe, match="'nope' is not served"):
        engine.add_request("second-net", {"prompt_token_ids": LONG}, sampling_params("nope", 4))
    engine.abort_request(["second-net"])


def test_a_users_own_salt_still_separates_users(bench: Bench) -> None:
    engine = bench.engine.llm
    cached = []
    for user in ("ann", "bob", "ann"):
        prompt = {"prompt_token_ids": LONG, "cache_salt": user}
        (output,) = engine.generate([prompt], sampling_params("all", 4), use_tqdm=False)
        cached.append(output.num_cached_tokens)
    assert cached == [0, 0, 128]


def test_without_the_salt_the_ledger_stops_the_engine(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test of this file: an engine that raised in a step is not used again."""
    without_salt(monkeypatch)
    bench.engine.answer([LONG], "off")
    with pytest.raises(ForeignBlock, match="was written uncapped"):
        bench.engine.answer([LONG], "all")
