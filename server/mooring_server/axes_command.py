"""`mooring axes list | show | convert`: look at axis files, and make them from the paper's .pt files."""

import argparse
from collections.abc import Sequence

from mooring_axes import registry
from mooring_axes.errors import CannotServe
from mooring_server.plan import find_axis


def axes(arguments: Sequence[str]) -> None:
    """Run one of the three."""
    options = _parser().parse_args(list(arguments))
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="mooring axes", allow_abbrev=False)
    commands = top.add_subparsers(required=True, metavar="list | show | convert")

    commands.add_parser("list", help="models whose axis is known").set_defaults(run=_list)

    show = commands.add_parser("show", help="what an axis holds")
    show.add_argument("axis", metavar="FILE|NAME")
    show.set_defaults(run=_show)

    convert = commands.add_parser("convert", help="turn assistant_axis.pt or capping_config.pt into an axis file")
    convert.add_argument("--axis", metavar="assistant_axis.pt")
    convert.add_argument("--capping-config", metavar="capping_config.pt")
    convert.add_argument("--model", required=True, help="id of the model the vectors were extracted from")
    convert.add_argument("--monitored-layer", type=int, help="0-based; the middle layer if it is left out")
    convert.add_argument("--experiment", help='the cap to recommend, such as "layers_46:54-p0.25"')
    convert.add_argument("--out", required=True, metavar="FILE.safetensors")
    convert.set_defaults(run=_convert)
    return top


def _list(options: argparse.Namespace) -> None:
    for name in registry.names():
        known = registry.find(name)
        assert known is not None
        print(f"{name:<24} {known.model:<36} cap {known.recommended or 'none published'}")
        if known.note:
            print(f"{'':<24} {known.note}")


def _show(options: argparse.Namespace) -> None:
    axis = find_axis("", options.axis)
    means = axis.default_mean, axis.role_mean
    print(f"{axis!r}\nmonitored layer {axis.monitored_layer}")
    if axis.recommended is not None:
        print(f"recommended cap: layers {axis.recommended.layers}, floor {axis.recommended.floor}")
    for name, population in axis.percentiles.items():
        print(f"percentiles of {name} answers (share below): {[round(float(s), 4) for s in population.shares]}")
    print(f"named caps: {', '.join(sorted(axis.caps)) or 'none'}")
    for layer in range(axis.n_layers):
        values = [
            f"{label} {mean[layer]:.4g}"
            for label, mean in zip(("default", "role"), means, strict=True)
            if mean is not None
        ]
        print(f"layer {layer:>3}  norm {axis.norms[layer]:.4g}  {'  '.join(values)}")
    for key, value in axis.provenance.items():
        print(f"{key}: {value}")


def _convert(options: argparse.Namespace) -> None:
    from mooring_axes.convert import from_assistant_axis, from_capping_config  # torch: only here

    facts = {"model": options.model, "monitored_layer": options.monitored_layer, "recommended": options.experiment}
    if options.axis is not None:
        axis = from_assistant_axis(options.axis, capping_config=options.capping_config, **facts)
    elif options.capping_config is not None:
        axis = from_capping_config(options.capping_config, **facts)
    else:
        raise CannotServe("there is nothing to convert: give --axis, --capping-config or both")
    axis.save(options.out)
    print(f"wrote {options.out}: {axis!r}")
