"""vLLM's V1 model runner: what CPUs serve with, and CUDA devices where V2 lacks a feature.

One of the files that may name vLLM's internals (0.32.0); tests/hooks/test_pins.py fails when they move.

    _prepare_inputs    sees the final row order of real requests
    _model_forward     has run their forward pass
    _dummy_run         calls neither
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from mooring_hooks.rows import Batch, BlockTable
from mooring_hooks.steps import Dummy, Facts, Roster, Step


class RunnerV1:
    """`facts(sampling_params, request_id, prompt_length)` knows a request's profile and ticket."""

    def __init__(self, runner: Any, facts: Callable[[Any, str, int], Facts]) -> None:
        self._runner, self._facts = runner, facts
        self._roster = Roster(self._look_up)

    def follow(self, before: Callable[[Step], None], after: Callable[[], None]) -> None:
        prepare, forward = self._runner._prepare_inputs, self._runner._model_forward

        def prepare_inputs(scheduler_output: Any, num_scheduled_tokens: np.ndarray) -> Any:
            before(self._step(scheduler_output, num_scheduled_tokens))
            return prepare(scheduler_output, num_scheduled_tokens)

        def model_forward(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            after()
            return output

        self._runner._prepare_inputs, self._runner._model_forward = prepare_inputs, model_forward

    def run_before_cache(self, rows: int) -> None:
        self._runner._dummy_run(rows, is_profile=True)

    def dummies(self, rows: int) -> list[Dummy]:
        """With attention: without, vLLM leaves attention's output uninitialised where no graph is captured.

        vLLM's dispatcher takes a batch for one of decoding only if it is told so: this reaches both its graphs.
        """
        decoding = min(rows, self._runner.max_num_reqs * self._runner.uniform_decode_query_len)

        def run(count: int, decode: bool) -> Any:
            return self._runner._dummy_run(count, force_attention=True, uniform_decode=decode)[0]

        return [
            Dummy("mixed", rows, lambda: run(rows, decode=False)),
            Dummy("decode", decoding, lambda: run(decoding, decode=True)),
        ]

    def _step(self, scheduler_output: Any, scheduled: np.ndarray) -> Step:
        batch = self._runner.input_batch
        members = self._roster.of(batch.req_ids)
        computed = batch.num_computed_tokens_cpu[: len(members.ids)].astype(np.int64)
        arrived = {request.req_id for request in scheduler_output.scheduled_new_reqs}
        arrived |= scheduler_output.scheduled_cached_reqs.resumed_req_ids
        places = np.arange(len(members.ids))
        return Step(
            members,
            Batch(members.slots, members.prompt_lengths, computed, scheduled.astype(np.int64)),
            [batch.req_id_to_index[request_id] for request_id in arrived],
            [BlockTable(t.block_size, t.block_table.np, places) for t in batch.block_table.block_tables],
        )

    def _look_up(self, request_id: str) -> Facts:
        state = self._runner.requests[request_id]
        return self._facts(state.sampling_params, request_id, state.num_prompt_tokens)
