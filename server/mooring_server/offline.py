"""Capped generation without a server, for notebooks and batches: `vllm.LLM` with the same profiles and readings.

    from mooring_server.offline import LLM

    llm = LLM("demo")
    (output,) = llm.chat([{"role": "user", "content": "Who are you?"}], profile="off")
    print(output.outputs[0].text, output.outputs[0].mooring.drift)

Axis and profiles are found and checked as `mooring serve` does it, the same self-test runs before the first prompt,
and every answer gets a `Reading` as its attribute `mooring`.
"""

import asyncio
import copy
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

from mooring_axes import demo
from mooring_hooks.engine import PROFILE_KEY, TRUST, TRUST_KEY
from mooring_hooks.frames import Ticket
from mooring_hooks.inbox import Inbox
from mooring_hooks.measure import Measure, Reading
from mooring_hooks.table import CONFIG_KEY, DEFAULT_SLOTS, SlotTable, tables_folder
from mooring_server.plan import DEMO, DEMO_OPTIONS, WORKER, make_plan, parser
from mooring_server.selftest import Answer, Prompt, Scale, Watch, probe_requests

PATIENCE: Final = 5.0
"""Seconds to wait for readings after a batch; nobody waits for a single answer here."""
SWEEP: Final = 0.01


class LLM:
    """`vllm.LLM`, capped; `vllm` is that object, for all that is not named here."""

    def __init__(
        self,
        model: str,
        *,
        axis: str | os.PathLike[str] | None = None,
        profiles: str | os.PathLike[str] | None = None,
        default_profile: str | None = None,
        slots: int = DEFAULT_SLOTS,
        axis_of_another_model: bool = False,
        **options: Any,
    ) -> None:
        """Options of `mooring serve` and, by keyword, of `vllm.LLM`; CannotServe for what the caller has to change."""
        wanted = parser().parse_args([str(model), "--history", "off"])
        wanted.axis = None if axis is None else str(axis)
        wanted.profiles = None if profiles is None else str(profiles)
        wanted.default_profile, wanted.slots = default_profile, slots
        wanted.axis_of_another_model = axis_of_another_model
        plan = make_plan(wanted, (), os.environ)
        os.environ.update(plan.environment)
        self.settings = plan.settings
        table = SlotTable.fetch(tables_folder(), plan.settings.table)
        self._measure = Measure(table)
        self.vllm = _vllm(model, plan.settings.to_json(), options)
        self._inbox = Inbox(len(table.layers), table.slots)
        try:
            self._prove()
        except BaseException:
            self.close()
            raise

    @property
    def profiles(self) -> list[str]:
        """Names that `profile` may have."""
        return list(self.settings.selectable())

    def generate(self, prompts: Any, sampling_params: Any = None, *, profile: Any = None, **options: Any) -> list[Any]:
        """As `vllm.LLM.generate`; `profile` is one name, one per prompt, or None for the default."""
        count = 1 if isinstance(prompts, str | dict) or _is_token_list(prompts) else len(prompts)
        return self._run(self.vllm.generate, prompts, count, sampling_params, profile, options)

    def chat(self, messages: Any, sampling_params: Any = None, *, profile: Any = None, **options: Any) -> list[Any]:
        """As `vllm.LLM.chat`; `profile` as in `generate`."""
        count = 1 if messages and isinstance(messages[0], dict) else len(messages)
        return self._run(self.vllm.chat, messages, count, sampling_params, profile, options)

    def close(self) -> None:
        """Stop the engine."""
        self.vllm.llm_engine.engine_core.shutdown()
        self._inbox.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(
        self, answer: Any, prompts: Any, count: int, sampling_params: Any, profile: Any, options: dict[str, Any]
    ) -> list[Any]:
        names = [profile] * count if profile is None or isinstance(profile, str) else list(profile)
        given = sampling_params if isinstance(sampling_params, Sequence) else [sampling_params] * count
        if not len(names) == len(given) == count:
            raise ValueError(f"{count} prompts, {len(names)} profiles and {len(given)} sampling parameters")
        given = [self.vllm.get_default_sampling_params() if p is None else p for p in given]
        tickets = [self._inbox.open(parameters.n) for parameters in given]
        asked = [_asking(*each) for each in zip(given, names, tickets, strict=True)]
        try:
            with self._sweeping():
                outputs: list[Any] = answer(prompts, asked, **options)
            for output, name, ticket in zip(outputs, names, tickets, strict=True):
                self._attach(output, self.settings.slot_of(name or self.settings.default), ticket)
        finally:
            for ticket in tickets:
                self._inbox.close(ticket)
        return outputs

    def _attach(self, output: Any, slot: int, ticket: Ticket) -> None:
        until = time.monotonic() + PATIENCE
        for i, answer in enumerate(output.outputs):
            answer.mooring = self._reading(ticket.number + i, len(answer.token_ids), slot, until)

    def _reading(self, number: int, tokens: int, slot: int, until: float) -> Reading:
        wanted = max(tokens - 1, 0)
        while True:
            self._inbox.drain()
            rows = self._inbox.collect(number, wanted)
            if len(rows) == wanted or time.monotonic() > until:
                return self._measure.read(rows, slot, complete=len(rows) == wanted)
            time.sleep(0.001)

    @contextmanager
    def _sweeping(self) -> Iterator[None]:
        """Empty the inbox from a thread while the engine runs in this one."""
        done = threading.Event()

        def sweep() -> None:
            while not done.wait(SWEEP):
                self._inbox.drain()

        thread = threading.Thread(target=sweep, name="mooring-inbox", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _prove(self) -> None:
        """The checks that the server makes before its port opens."""
        self.vllm.collective_rpc("mooring_agree", args=(self.settings.to_json(),))

        async def begin(prefix: str) -> None:
            self.vllm.collective_rpc("mooring_watch", args=(prefix,))

        async def end(prefix: str) -> Any:
            return self.vllm.collective_rpc("mooring_readings", args=(prefix,))

        scale = Scale.of(self.vllm.llm_engine.vllm_config)
        asyncio.run(probe_requests(self.settings, scale, self._answer_probe, Watch(begin, end)))

    async def _answer_probe(self, prompt: Prompt) -> Answer:
        from vllm import SamplingParams

        trusted = {PROFILE_KEY: prompt.profile, TRUST_KEY: TRUST}
        parameters = SamplingParams(
            temperature=0.0, max_tokens=prompt.max_tokens, ignore_eos=True, extra_args=trusted, detokenize=False
        )
        engine = self.vllm.llm_engine
        engine.add_request(prompt.request_id, {"prompt_token_ids": prompt.token_ids}, parameters)
        found = []
        while engine.has_unfinished_requests():
            found += engine.step()
        return Answer(len(found[-1].outputs[0].token_ids), found[-1].num_cached_tokens or 0)


def _vllm(model: str, settings: dict[str, Any], options: dict[str, Any]) -> Any:
    import vllm

    given = options.pop("additional_config", {})
    if model == DEMO:
        options = {name[2:].replace("-", "_"): int(value) for name, value in DEMO_OPTIONS.items()} | options
    return vllm.LLM(
        str(demo.MODEL_DIR) if model == DEMO else model,
        worker_cls=WORKER,
        additional_config=given | {CONFIG_KEY: settings},
        **options,
    )


def _asking(parameters: Any, profile: str | None, ticket: Ticket) -> Any:
    asked = copy.copy(parameters)
    named = {} if profile is None else {PROFILE_KEY: profile}
    asked.extra_args = (parameters.extra_args or {}) | named | ticket.to_extra_args(TRUST)
    return asked


def _is_token_list(prompts: Any) -> bool:
    return isinstance(prompts, list) and bool(prompts) and isinstance(prompts[0], int)
