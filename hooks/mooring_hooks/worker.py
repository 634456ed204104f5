"""vLLM's worker with the cap in its model: `--worker-cls mooring_hooks.worker.Worker`.

One of the files that may name vLLM's internals (0.32.0); tests/hooks/test_pins.py fails when they move.

    load_model               changes the modules after the capped layers, before the first forward pass
    compile_or_warm_up_model, wake_up, reload_weights    end with the self-test of the loaded model
    mooring_*                remote calls for start-up and tests; a stock worker lacks them, which stops the start

What happens at every step comes from runner_v1.py or runner_v2.py. All that the served graph reads or writes for the
cap lies in buffers that keep their addresses from `load_model` on and are filled outside of it, so that a captured
CUDA graph always sees the step it is replayed for.
"""

from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.distributed import get_tp_group
from vllm.platforms import current_platform
from vllm.utils.torch_utils import async_tensor_h2d

from mooring_axes.errors import CannotServe
from mooring_hooks.engine import PROFILE_KEY, installed, refuse_unsupported
from mooring_hooks.frames import Ticket
from mooring_hooks.progress import say, telling
from mooring_hooks.readings import Readings
from mooring_hooks.rows import BlockLedger, SlotRows
from mooring_hooks.runner_v1 import RunnerV1
from mooring_hooks.selftest import ROWS, probe_graph, probe_sites
from mooring_hooks.sites import Site, install
from mooring_hooks.steps import Facts, Runner, Step
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


def _runner(model_runner: Any, v2: bool, settings: Settings) -> Runner:
    """`v2` is vLLM's own choice."""
    slots = {name: slot for slot, name in enumerate(settings.names())}

    def facts(sampling_params: Any, request_id: str, prompt_length: int) -> Facts:
        """From the request's own parameters; a name that is not served stops the engine."""
        extra = (sampling_params.extra_args if sampling_params is not None else None) or {}
        slot = slots[extra.get(PROFILE_KEY, settings.default)]
        return Facts(slot, prompt_length, Ticket.of(extra, request_id))

    if not v2:
        return RunnerV1(model_runner, facts)
    from mooring_hooks.runner_v2 import RunnerV2

    return RunnerV2(model_runner, facts)


class Capping:
    """The cap inside one loaded model: its sites, and what must be known before each step."""

    def __init__(
        self, model: torch.nn.Module, runner: Runner, rows: torch.Tensor, settings: Settings, table: SlotTable
    ) -> None:
        self.runner, self.rows = runner, rows
        self.sites: list[Site] = install(model, table, rows, lambda: _run_uncompiled(model, runner), settings.kernel)
        self.watch = Watch(self.sites)
        self.readings = _readings(self.sites, table, rows.device)
        self._settings, self._slot_rows = settings, SlotRows(settings)
        self._ledgers: list[BlockLedger] = []
        self._step: tuple[Step, np.ndarray] | None = None
        self.proven = False
        """Whether the last self-test has passed."""
        runner.follow(self.before_step, self.after_step)

    def set_rows(self, slots: np.ndarray) -> None:
        """Fill the buffer that the graph reads: `slots` (T,), zeros behind them.

        Host memory is taken anew each time: the copy of an earlier step may still be reading its own.
        """
        whole = np.zeros(len(self.rows), np.int32)
        whole[: len(slots)] = slots
        async_tensor_h2d(whole, out=self.rows)

    def before_step(self, step: Step) -> None:
        if not self.proven:
            raise CannotServe("the self-test has not passed, so no request is answered\n  restart the server")
        slots = self._slot_rows.of(step.batch)
        self.set_rows(slots)
        self._keep_ledgers(step, slots)
        self._step = (step, slots)

    def after_step(self) -> None:
        if self._step is None:
            return
        step, slots = self._step
        self._step = None
        if self.watch.active:
            self.watch.take(step.members.ids, step.batch, slots)
        if self.readings is not None:
            self.readings.take(step.batch, slots, step.members.tickets)

    def _keep_ledgers(self, step: Step, slots: np.ndarray) -> None:
        while len(self._ledgers) < len(step.tables):
            self._ledgers.append(BlockLedger(self._settings))
        for ledger, table in zip(self._ledgers, step.tables, strict=True):
            # The step's own rows first: a request may share a block that another one fills in this very step.
            ledger.write(step.batch, slots, table)
            for at in step.arrived:
                ledger.check(step.members.ids[at], at, step.batch, table)


def _run_uncompiled(model: torch.nn.Module, runner: Runner) -> None:
    """One pass that leaves nothing compiled behind: for models whose sites have to be proven."""
    compiled: list[Any] = [module for module in model.modules() if hasattr(module, "do_not_compile")]
    before = [module.do_not_compile for module in compiled]
    for module in compiled:
        module.do_not_compile = True
    try:
        runner.run_before_cache(ROWS)
    finally:
        for module, value in zip(compiled, before, strict=True):
            module.do_not_compile = value


def _readings(sites: list[Site], table: SlotTable, device: torch.device) -> Readings | None:
    """Only the first rank of each pipeline stage sends: the others of its tensor-parallel group read the same."""
    if not sites or get_tp_group().rank_in_group != 0:
        return None
    return Readings(sites, table.layers.index(sites[0].layer), device)


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
            self.capping = self._cap(table)

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
        """Raise unless every site of this process caps, and its cap reaches the next one in the served graph.

        Whoever called for it may go on after that: until the test passes no request is run any more.
        """
        self.capping.proven = False
        with torch.no_grad():
            probe_sites(self.capping.sites, self.capping.set_rows)
            for dummy in self.capping.runner.dummies(ROWS):
                probe_graph(self.capping.sites, self.capping.set_rows, dummy)
        self.capping.proven = True

    def mooring_watch(self, prefix: str) -> None:
        self.capping.watch.begin(prefix)

    def mooring_readings(self, prefix: str) -> dict[str, Any]:
        return self.capping.watch.end(prefix)

    def _cap(self, table: SlotTable) -> Capping:
        vllm_runner, settings = self.model_runner, self.mooring_settings
        runner = _runner(vllm_runner, self.vllm_config.use_v2_model_runner, settings)
        rows = torch.zeros(vllm_runner.max_num_tokens, dtype=torch.int32, device=vllm_runner.device)
        return Capping(vllm_runner.get_model(), runner, rows, settings, table)

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
