"""vLLM's worker with the cap in its model: `--worker-cls mooring_hooks.worker.Worker`.

One of the three files that may name vLLM's internals (0.32.0); tests/hooks/test_pins.py fails when they move.

    load_model               changes the modules after the capped layers, before the first forward pass
    _prepare_inputs          (V1 runner) sees the final row order: row -> slot, and the ledger of KV blocks
    _model_forward           (V1 runner) has filled the projections: they are sent, and watched rows copied out
    compile_or_warm_up_model, wake_up, reload_weights    end with the self-test of the loaded model
    mooring_*                remote calls for start-up and tests; a stock worker lacks them, which stops the start
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.distributed import get_tp_group
from vllm.platforms import current_platform
from vllm.utils.platform_utils import is_pin_memory_available

from mooring_axes.errors import CannotServe
from mooring_hooks.engine import PROFILE_KEY, installed, refuse_unsupported
from mooring_hooks.frames import Ticket
from mooring_hooks.progress import say, telling
from mooring_hooks.readings import Readings, Tickets
from mooring_hooks.rows import Batch, BlockLedger, SlotRows
from mooring_hooks.selftest import ROWS, probe_graph, probe_sites
from mooring_hooks.sites import Site, install
from mooring_hooks.table import Settings, SlotTable, tables_folder
from mooring_hooks.watch import Watch


def _platform_worker() -> type:
    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_worker import CPUWorker

        return CPUWorker
    if current_platform.is_cuda():
        from vllm.v1.worker.gpu_worker import Worker as CUDAWorker

        return CUDAWorker
    raise CannotServe(f"Mooring serves on CPUs and CUDA devices, and this is {current_platform.device_name!r}")


class Members(NamedTuple):
    """What stays the same about a batch while its requests do; R requests."""

    ids: list[str]
    slots: np.ndarray
    prompt_lengths: np.ndarray
    tickets: Tickets


class Capping:
    """The cap inside one loaded model: its sites, and what must be known before each step."""

    def __init__(self, runner: Any, settings: Settings, table: SlotTable) -> None:
        self.runner, self.settings = runner, settings
        self.host_rows = torch.zeros(runner.max_num_tokens, dtype=torch.int32, pin_memory=is_pin_memory_available())
        self.device_rows = torch.zeros(runner.max_num_tokens, dtype=torch.int32, device=runner.device)
        self.sites: list[Site] = install(
            runner.get_model(), table, self.device_rows, self._run_uncompiled, settings.kernel
        )
        self.watch = Watch(self.sites)
        self.readings = _readings(runner, self.sites, table)
        self._slots = {name: slot for slot, name in enumerate(settings.names())}
        self._slot_rows = SlotRows(settings)
        self._ledgers: dict[int, BlockLedger] = {}
        self._members = Members([], np.zeros(0, np.int64), np.zeros(0, np.int64), Tickets.of([]))
        self._step: tuple[Batch, np.ndarray] | None = None
        self._wrap_runner()

    def set_rows(self, rows: np.ndarray) -> None:
        """Fill the buffer that the graph reads: `rows` (T,), zeros behind it."""
        self.host_rows.numpy()[: len(rows)] = rows
        self.host_rows.numpy()[len(rows) :] = 0
        self.device_rows.copy_(self.host_rows, non_blocking=True)

    def slot_of(self, state: Any) -> int:
        """Slot of a request, from its own parameters; a name that is not served stops the engine."""
        extra = state.sampling_params.extra_args if state.sampling_params is not None else None
        return self._slots[(extra or {}).get(PROFILE_KEY, self.settings.default)]

    def before_step(self, scheduler_output: Any, scheduled: np.ndarray) -> None:
        if self.runner.input_batch.req_ids != self._members.ids:
            self._members = self._meet(list(self.runner.input_batch.req_ids))
        members = self._members
        computed = self.runner.input_batch.num_computed_tokens_cpu[: len(members.ids)].astype(np.int64)
        batch = Batch(members.slots, members.prompt_lengths, computed, scheduled.astype(np.int64))
        rows = self._slot_rows.of(batch)
        self.set_rows(rows)
        self._keep_ledgers(scheduler_output, batch, rows)
        self._step = (batch, rows)

    def after_step(self) -> None:
        if self._step is None:
            return
        if self.watch.active:
            self.watch.take(self._members.ids, *self._step)
        if self.readings is not None:
            self.readings.take(*self._step, self._members.tickets)
        self._step = None

    def _meet(self, ids: list[str]) -> Members:
        """Look each request up; a request's own facts never change while it lives."""
        states = [self.runner.requests[request_id] for request_id in ids]
        return Members(
            ids,
            np.array([self.slot_of(state) for state in states], np.int64),
            np.array([state.num_prompt_tokens for state in states], np.int64),
            Tickets.of([_ticket(state, request_id) for state, request_id in zip(states, ids, strict=True)]),
        )

    def _keep_ledgers(self, scheduler_output: Any, batch: Batch, rows: np.ndarray) -> None:
        arrived = {request.req_id for request in scheduler_output.scheduled_new_reqs}
        arrived |= scheduler_output.scheduled_cached_reqs.resumed_req_ids
        index = self.runner.input_batch.req_id_to_index
        for group, block_table in enumerate(self.runner.input_batch.block_table.block_tables):
            ledger = self._ledgers.get(group)
            if ledger is None:
                null_blocks = getattr(block_table, "blocks_per_kv_block", 1)
                ledger = self._ledgers[group] = BlockLedger(self.settings, block_table.block_size, null_blocks)
            blocks = block_table.block_table.np
            # The step's own rows first: a request may share a block that another one fills in this very step.
            ledger.write(batch, rows, blocks)
            for request_id in arrived:
                i = index[request_id]
                ledger.check(
                    request_id, int(batch.slots[i]), int(batch.prompt_lengths[i]), int(batch.computed[i]), blocks[i]
                )

    def _wrap_runner(self) -> None:
        """Both methods are the model runner's own; nothing of what they return is touched."""
        prepare, forward = self.runner._prepare_inputs, self.runner._model_forward

        def prepare_inputs(scheduler_output: Any, num_scheduled_tokens: np.ndarray) -> Any:
            self.before_step(scheduler_output, num_scheduled_tokens)
            return prepare(scheduler_output, num_scheduled_tokens)

        def model_forward(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            self.after_step()
            return output

        self.runner._prepare_inputs, self.runner._model_forward = prepare_inputs, model_forward

    def _run_uncompiled(self) -> None:
        """One pass that leaves nothing compiled behind: for models whose sites have to be proven."""
        model = self.runner.get_model()
        compiled = [m for m in model.modules() if hasattr(m, "do_not_compile")]
        before = [m.do_not_compile for m in compiled]
        for module in compiled:
            module.do_not_compile = True
        try:
            self.runner._dummy_run(ROWS, is_profile=True)
        finally:
            for module, value in zip(compiled, before, strict=True):
                module.do_not_compile = value

    def run_dummy(self, tokens: int) -> torch.Tensor:
        """One pass of the served graph over a dummy batch; (tokens, H) hidden states.

        With attention, which needs the KV cache: without, vLLM leaves attention's output uninitialised.
        """
        return self.runner._dummy_run(tokens, force_attention=True)[0]


def _ticket(state: Any, request_id: str) -> Ticket | None:
    parameters = state.sampling_params
    return Ticket.of((parameters.extra_args if parameters is not None else None) or {}, request_id)


def _readings(runner: Any, sites: list[Site], table: SlotTable) -> Readings | None:
    """Only the first rank of each pipeline stage sends: the others of its tensor-parallel group read the same."""
    if not sites or get_tp_group().rank_in_group != 0:
        return None
    return Readings(sites, table.layers.index(sites[0].layer), runner.device)


class Worker(_platform_worker()):  # type: ignore[misc]
    """The platform's worker, whose model is capped."""

    vllm_config: VllmConfig
    mooring_asleep = False

    @telling()
    def init_device(self) -> None:
        refuse_unsupported(self.vllm_config)
        if not installed():
            raise CannotServe(
                "mooring's general plugin was not loaded in this process, so the prefix cache would not be isolated\n"
                "  VLLM_PLUGINS must name mooring, and the package must be importable on this node: `mooring doctor`"
            )
        settings = Settings.from_config(self.vllm_config.additional_config)
        if settings is None:
            raise CannotServe(
                "the worker is Mooring's, but --additional-config has no 'mooring' settings\n"
                "  take the whole line that `mooring serve ... --print-command` prints"
            )
        self.mooring_settings = settings
        super().init_device()

    @telling()
    def load_model(self, **kwargs: Any) -> None:
        table = SlotTable.fetch(tables_folder(), self.mooring_settings.table)
        self._check_model(table)
        super().load_model(**kwargs)
        self._say(f"model loaded; capping after layers {list(table.layers)}; compiling ...")
        with torch.no_grad():
            self.capping = Capping(self.model_runner, self.mooring_settings, table)

    @telling()
    def compile_or_warm_up_model(self) -> Any:
        times = super().compile_or_warm_up_model()
        self.mooring_selftest()
        self._say("self-test passed: every site caps in the served graph")
        return times

    def sleep(self, level: int = 1) -> None:
        super().sleep(level)
        self.mooring_asleep = True

    def wake_up(self, tags: list[str] | None = None) -> None:
        super().wake_up(tags)
        if tags is None or "kv_cache" in tags:
            self.mooring_asleep = False
            self.mooring_selftest()

    def reload_weights(self, *args: Any, **kwargs: Any) -> None:
        super().reload_weights(*args, **kwargs)
        if not self.mooring_asleep:  # the test needs the KV cache; while that sleeps, its wake-up tests
            self.mooring_selftest()

    def mooring_agree(self, settings: dict[str, Any]) -> None:
        """Raise unless this process was started with the same settings as the caller."""
        if (mine := self.mooring_settings.to_json()) != settings:
            raise CannotServe(
                f"this worker has capping table {mine['table'][:12]}, the server {settings['table'][:12]}\n"
                "  start every node with the same --additional-config"
            )

    def mooring_selftest(self) -> None:
        """Raise unless every site of this process caps, and its cap reaches the next one in the served graph."""
        with torch.no_grad():
            probe_sites(self.capping.sites, self.capping.set_rows)
            probe_graph(self.capping.sites, self.capping.set_rows, lambda: self.capping.run_dummy(ROWS))

    def mooring_watch(self, prefix: str) -> None:
        self.capping.watch.begin(prefix)

    def mooring_readings(self, prefix: str) -> dict[str, Any]:
        return self.capping.watch.end(prefix)

    def _say(self, text: str) -> None:
        if self.rank == 0:
            say(text)

    def _check_model(self, table: SlotTable) -> None:
        config = self.vllm_config.model_config
        found = (config.get_hidden_size(), config.get_total_num_hidden_layers())
        if found != (wanted := (table.hidden_size, table.model_layers)):
            raise CannotServe(
                f"the axis has width {wanted[0]} and {wanted[1]} layers, but {config.model} has width {found[0]} "
                f"and {found[1]} layers\n  serve an axis that was extracted from this model"
            )
