"""vLLM's V2 model runner: what CUDA devices serve with unless a feature keeps vLLM on V1.

One of the files that may name vLLM's internals (0.32.0); tests/hooks/test_pins.py fails when they move.

    prepare_inputs    sees the final row order of real requests; dummy and capture runs do not pass it
    execute_model     has queued their forward pass when it returns, whether eager or one replayed graph

V2 keeps block tables on the device, and gives a request that was preempted a new index when it comes back. So the
blocks are kept here as the scheduler hands them out, by that index: never more than it has, nothing to give back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from vllm.v1.core.sched.output import SchedulerOutput

from mooring_hooks.rows import Batch, BlockTable
from mooring_hooks.steps import Dummy, Facts, Roster, Step


class Blocks:
    """The block tables of all requests, on the host; one array per KV cache group."""

    def __init__(self, tables: Any) -> None:
        self._sizes: list[int] = tables.block_sizes
        self._ids: list[npt.NDArray[np.int32]] = [np.zeros(t.gpu.shape, np.int32) for t in tables.block_tables]
        self._counts = np.zeros((len(self._ids), tables.max_num_reqs), np.int64)

    def give(self, index: int, blocks: Sequence[list[int]], anew: bool) -> None:
        """Note what a request got, behind what it has or instead of it; `blocks` is one list per group."""
        for group, ids in enumerate(blocks):
            start = 0 if anew else self._counts[group, index]
            self._counts[group, index] = start + len(ids)
            self._ids[group][index, start : start + len(ids)] = ids

    def tables(self, of: npt.NDArray[np.int64]) -> list[BlockTable]:
        return [BlockTable(size, ids, of) for size, ids in zip(self._sizes, self._ids, strict=True)]


class RunnerV2:
    """`facts(sampling_params, request_id, prompt_length)` knows a request's profile and ticket."""

    def __init__(self, runner: Any, facts: Callable[[Any, str, int], Facts]) -> None:
        self._runner, self._new_facts = runner, facts
        self._facts: list[Facts | None] = [None] * runner.max_num_reqs
        self._roster = Roster(self._look_up)
        self._blocks: Blocks | None = None

    def follow(self, before: Callable[[Step], None], after: Callable[[], None]) -> None:
        prepare, execute = self._runner.prepare_inputs, self._runner.execute_model

        def prepare_inputs(scheduler_output: Any, batch_req_state: Any, *args: Any) -> Any:
            before(self._step(scheduler_output, batch_req_state))
            return prepare(scheduler_output, batch_req_state, *args)

        def execute_model(*args: Any, **kwargs: Any) -> Any:
            output = execute(*args, **kwargs)
            after()
            return output

        self._runner.prepare_inputs, self._runner.execute_model = prepare_inputs, execute_model

    def run_before_cache(self, rows: int) -> None:
        self._runner._dummy_run(rows, skip_attn=True, is_profile=True)

    def dummies(self, rows: int) -> list[Dummy]:
        """vLLM's dispatcher takes a batch for one of decoding if every request has as many rows as decoding has."""
        length = self._runner.decode_query_len
        requests = max(1, min(rows // length, self._runner.max_num_reqs))
        return [
            Dummy("mixed", rows, lambda: self._run_dummy([rows])),
            Dummy("decode", requests * length, lambda: self._run_dummy([length] * requests)),
        ]

    def _run_dummy(self, lengths: Sequence[int]) -> Any:
        """As the runner's own `_dummy_run`, which cannot be told how many requests it shall have."""
        step = SchedulerOutput.make_empty()
        step.num_scheduled_tokens = {f"dummy-{i}": length for i, length in enumerate(lengths)}
        step.total_num_scheduled_tokens = sum(lengths)
        handed_on = self._runner.execute_model(step, self._runner.intermediate_tensors, dummy_run=True)
        state, self._runner.execute_model_state = self._runner.execute_model_state, None
        return state.hidden_states if handed_on is None else handed_on

    def _step(self, scheduler_output: Any, state: Any) -> Step:
        blocks = self._note(scheduler_output)
        members, index = self._roster.of(state.req_ids), state.idx_mapping_np
        computed = self._runner.req_states.num_computed_tokens_np[index].astype(np.int64)
        new = {request.req_id for request in scheduler_output.scheduled_new_reqs}
        return Step(
            members,
            Batch(members.slots, members.prompt_lengths, computed, state.num_scheduled_tokens.astype(np.int64)),
            [place for place, request_id in enumerate(state.req_ids) if request_id in new] if new else [],
            blocks.tables(index),
        )

    def _note(self, scheduler_output: Any) -> Blocks:
        """Learn what this step changed: requests that came (or came back), and blocks that others got."""
        if self._blocks is None:
            self._blocks = Blocks(self._runner.block_tables)
        index_of = self._runner.req_states.req_id_to_index
        for new in scheduler_output.scheduled_new_reqs:
            index = index_of[new.req_id]
            self._facts[index] = self._new_facts(new.sampling_params, new.req_id, new.prompt_len)
            self._blocks.give(index, new.block_ids, anew=True)
        cached = scheduler_output.scheduled_cached_reqs
        for request_id, more in zip(cached.req_ids, cached.new_block_ids, strict=True):
            if more is not None:
                self._blocks.give(index_of[request_id], more, anew=False)
        return self._blocks

    def _look_up(self, request_id: str) -> Facts:
        facts = self._facts[self._runner.req_states.req_id_to_index[request_id]]
        assert facts is not None, f"request {request_id} runs and was never scheduled as a new one"
        return facts
