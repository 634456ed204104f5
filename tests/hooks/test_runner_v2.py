"""vLLM's V2 model runner: all that test_batching.py shows of V1, in a process of its own."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from interpreter import run_tests
from mooring_hooks.frames import Ticket
from mooring_hooks.runner_v2 import Blocks, RunnerV2
from mooring_hooks.steps import Facts, Step


@pytest.mark.engine
@pytest.mark.verify
def test_batches_isolation_and_readings_are_those_of_v1() -> None:
    run_tests("hooks/test_batching.py", plugin="v2_runner", limit=500)


@pytest.fixture
def blocks() -> Blocks:
    """Two groups of blocks, 4 and 8 tokens wide, for up to 3 requests."""
    tables = [SimpleNamespace(gpu=torch.zeros(3, 5)), SimpleNamespace(gpu=torch.zeros(3, 2))]
    return Blocks(SimpleNamespace(block_sizes=[4, 8], block_tables=tables, max_num_reqs=3))


def test_more_blocks_go_behind_those_a_request_has(blocks: Blocks) -> None:
    blocks.give(2, ([7, 8], [9]), anew=True)
    blocks.give(2, ([3], []), anew=False)
    four, eight = blocks.tables(np.array([2]))
    assert four.ids[2].tolist() == [7, 8, 3, 0, 0] and eight.ids[2].tolist() == [9, 0]
    assert (four.block_size, eight.block_size) == (4, 8) and four.of.tolist() == [2]


def test_a_request_that_takes_over_an_index_starts_anew(blocks: Blocks) -> None:
    blocks.give(1, ([7, 8, 9], [6]), anew=True)
    blocks.give(1, ([2], [5]), anew=True)
    blocks.give(1, ([4], [3]), anew=False)
    assert [table.ids[1, :2].tolist() for table in blocks.tables(np.array([1]))] == [[2, 4], [5, 3]]


class Fake:
    """As much of vLLM's runner as is leant on: it prepares what it is told to execute."""

    def __init__(self) -> None:
        self.max_num_reqs = 3
        tables = [SimpleNamespace(gpu=torch.zeros(3, 5))]
        self.block_tables = SimpleNamespace(block_sizes=[4], block_tables=tables, max_num_reqs=3)
        self.req_states = SimpleNamespace(req_id_to_index={}, num_computed_tokens_np=np.zeros(3, np.int32))

    def prepare_inputs(self, scheduler_output: Any, batch_req_state: Any) -> None:
        pass

    def execute_model(self, scheduler_output: Any, batch_req_state: Any = None) -> None:
        if batch_req_state is not None:  # a dummy batch has none
            self.prepare_inputs(scheduler_output, batch_req_state)


def scheduled(new: dict[str, list[int]] | None = None, more: dict[str, list[int] | None] | None = None) -> Any:
    """What vLLM's scheduler hands out: blocks of new requests (prompts of 6), and of known ones."""
    cached = {request: None if ids is None else (ids,) for request, ids in (more or {}).items()}
    return SimpleNamespace(
        scheduled_new_reqs=[
            SimpleNamespace(req_id=request, sampling_params=request, prompt_len=6, block_ids=(ids,))
            for request, ids in (new or {}).items()
        ],
        scheduled_cached_reqs=SimpleNamespace(req_ids=list(cached), new_block_ids=list(cached.values())),
    )


@pytest.fixture
def follow() -> Callable[..., Step | None]:
    """Run one step of a runner that is followed, and return what was told of it; slots are the ids' numbers."""
    fake, told = Fake(), []

    def facts(sampling_params: Any, request_id: str, prompt_length: int) -> Facts:
        return Facts(int(sampling_params[1:]), prompt_length, Ticket("inbox", "", int(request_id[1:]), 1))

    RunnerV2(fake, facts).follow(told.append, lambda: told.append("after"))

    def run(output: Any, rows: dict[str, tuple[int, int, int]] | None = None) -> Step | None:
        """`rows`: request -> (its index, computed, scheduled), in the batch's order; None: a dummy batch."""
        told.clear()
        state = None
        if rows is not None:
            fake.req_states.req_id_to_index = {request: index for request, (index, _, _) in rows.items()}
            for index, computed, _ in rows.values():
                fake.req_states.num_computed_tokens_np[index] = computed
            indices, _, counts = (np.array(column) for column in zip(*rows.values(), strict=True))
            state = SimpleNamespace(req_ids=list(rows), idx_mapping_np=indices, num_scheduled_tokens=counts)
        fake.execute_model(output, state)
        assert told[-1] == "after"
        return told[0] if len(told) == 2 else None

    return run


def test_a_step_is_told_in_the_order_of_its_rows(follow: Any) -> None:
    step = follow(scheduled({"r1": [7, 8], "r2": [9, 4]}), {"r2": (0, 0, 2), "r1": (2, 4, 3)})
    assert step.members.ids == ["r2", "r1"] and step.members.slots.tolist() == [2, 1]
    assert step.members.tickets.numbers.tolist() == [2, 1]
    assert step.batch.positions().tolist() == [0, 1, 4, 5, 6] and step.arrived == [0, 1]
    assert step.tables[0].written(step.batch).tolist() == [9, 9, 8, 8, 8]


def test_a_preempted_request_comes_back_under_another_index(follow: Any) -> None:
    follow(scheduled({"r1": [7], "r2": [9]}), {"r1": (0, 0, 4), "r2": (1, 0, 4)})
    follow(scheduled(more={"r2": [5]}), {"r2": (1, 4, 2)})
    step = follow(scheduled({"r1": [3, 2]}, {"r2": None}), {"r2": (1, 6, 1), "r1": (2, 0, 6)})
    assert step.arrived == [1] and step.members.slots.tolist() == [2, 1]
    assert step.tables[0].written(step.batch).tolist() == [5, 3, 3, 3, 3, 2, 2]


def test_a_dummy_batch_is_told_to_nobody(follow: Any) -> None:
    assert follow(scheduled({"r1": [7]}), {"r1": (0, 0, 4)}) is not None
    assert follow(None) is None
