"""Proof, before the first request, that the cap works in this process.

`probe_sites`   each changed norm on random streams against the definition, with one slot's floor raised above
                every row: what lay below comes out at the floor, slot 0 is the plain norm.
`probe_graph`   the served graph itself, compiled and captured as it is, by a dummy batch of each shape that has a
                CUDA graph of its own: raising the floor at one site must move what the next site reads (after the
                last one: the model's output) and leave alone what that site itself reads. A graph compiled
                without the cap, or a site that the graph bypasses, fails here.

The third part, real requests through the engine, needs the API process: mooring_server.plugin.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from mooring_axes.errors import CannotServe
from mooring_hooks.norm import reference
from mooring_hooks.sites import Site
from mooring_hooks.steps import Dummy

SetRows = Callable[[npt.NDArray[np.int32]], None]

ROWS: Final = 16
"""Rows of a probe batch."""
PROBED_SLOT: Final = 1
"""The slot whose floor is raised for the time of a probe."""
TOLERANCE: Final = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Largest relative difference from the fp64 definition, by the model's dtype."""


class SelfTestFailed(CannotServe):
    """The cap does not do what it should; nothing may be served."""


def probe_sites(sites: Sequence[Site], set_rows: SetRows) -> None:
    """Every changed norm alone; a `layer_output` module can only run inside its model."""
    slots = (np.arange(ROWS) % 2).astype(np.int32)
    for site in sites:
        if site.kind == "next_norm":
            set_rows(slots)
            with _untouched_but([site], site, floor=10.0):
                _probe_norm(site, torch.from_numpy(slots))
    set_rows(np.zeros(0, np.int32))


def probe_graph(sites: Sequence[Site], set_rows: SetRows, dummy: Dummy) -> None:
    """Every site of this process in the graph that serves batches of the dummy's shape."""
    set_rows(np.zeros(0, np.int32))
    plain = _observe(sites, dummy)
    set_rows(np.full(dummy.rows, PROBED_SLOT, np.int32))
    for index, site in enumerate(sites):
        with _untouched_but(sites, site, floor=_above(plain[index])):
            seen = _observe(sites, dummy)
        _check_graph(site, index, plain, seen)
    set_rows(np.zeros(0, np.int32))


def _probe_norm(site: Site, slots: torch.Tensor) -> None:
    module = site.module
    if not hasattr(module, "scale_weight"):
        raise _failed(site, f"the module is a plain {type(module).__name__}: its cap was taken away")
    weight: torch.Tensor = module.scale_weight()
    generator = torch.Generator().manual_seed(site.layer)
    shape = (2, ROWS, module.mooring_axes.shape[1])  # type: ignore[index]
    x, residual = torch.randn(shape, generator=generator).to(module.weight)  # type: ignore[call-overload]
    tables = [table.cpu() for table in module.tables()]  # type: ignore[operator]
    wanted = reference(
        x.cpu(),
        residual.cpu(),
        weight.cpu(),
        module.variance_epsilon,
        type(module.tables())(*tables),
        slots,  # type: ignore
    )
    y, capped = module(x.clone(), residual.clone())
    found = (y, capped, module.mooring_projections[:ROWS])  # type: ignore[index]
    for name, one, other in zip(("output", "capped stream", "projection"), found, wanted, strict=True):
        difference = float((one.double().cpu() - other).norm() / other.norm())
        if not difference <= TOLERANCE[module.weight.dtype]:  # type: ignore[union-attr, index]
            raise _failed(site, f"its {name} differs from the definition by {difference:.2g} (relative)")


def _observe(sites: Sequence[Site], dummy: Dummy) -> list[torch.Tensor]:
    """Projections at every site, then the output; NaN where the graph recorded nothing."""
    for site in sites:
        site.module.mooring_projections[: dummy.rows] = float("nan")  # type: ignore[index, operator]
    output = dummy.run()
    tensors = [output] if isinstance(output, torch.Tensor) else list(output.tensors.values())
    readings = [site.module.mooring_projections[: dummy.rows].clone() for site in sites]  # type: ignore[index]
    return [*readings, torch.cat([t[: dummy.rows].float() for t in tensors], dim=-1)]


def _check_graph(site: Site, index: int, plain: list[torch.Tensor], seen: list[torch.Tensor]) -> None:
    if not torch.isfinite(plain[index]).all():
        raise _failed(site, f"the served graph recorded the projections {plain[index][:4].tolist()}")
    if _moved(plain[index], seen[index]):
        raise _failed(site, "raising its floor changed what the site itself reads, so it reads behind its own cap")
    if not _moved(plain[index + 1], seen[index + 1]):
        raise _failed(site, "raising its floor moved nothing behind it in the served graph: the cap has no effect")


def _moved(before: torch.Tensor, after: torch.Tensor) -> bool:
    return float((after - before).abs().max()) > 1e-3 * (1e-3 + float(before.abs().max()))


def _above(projections: torch.Tensor) -> float:
    """A floor that lifts every row by several times what it carries."""
    return float(projections.max() + 10 * projections.abs().max() + 1)


@contextmanager
def _untouched_but(sites: Sequence[Site], raised: Site, floor: float) -> Iterator[None]:
    """The probed slot acts at one site alone."""
    remaps = [site.module.mooring_remaps for site in sites]
    before = [table[PROBED_SLOT].clone() for table in remaps]  # type: ignore[index]
    for site, table in zip(sites, remaps, strict=True):
        lowest = floor if site is raised else float("-inf")
        table[PROBED_SLOT] = torch.tensor([1.0, 0.0, lowest, float("inf")])  # type: ignore[index]
    try:
        yield
    finally:
        for table, row in zip(remaps, before, strict=True):
            table[PROBED_SLOT] = row  # type: ignore[index]


def _failed(site: Site, what: str) -> SelfTestFailed:
    return SelfTestFailed(
        f"self-test: the cap after layer {site.layer} does not work: {what}\n"
        "  Mooring does not start half-capped; `mooring doctor` says which versions were found"
    )
