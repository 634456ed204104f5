"""YAML files that people write for Mooring, with the plain scalars of YAML 1.2 and no key twice."""

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mooring_axes.artifact import FilePath
from mooring_axes.errors import CannotServe


def read_mapping(path: FilePath, what: str, keys: Sequence[str]) -> dict[str, Any]:
    """What the file holds; CannotServe where that is no mapping. `what` and `keys` are for the error."""
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise CannotServe(f"cannot read {what} in {path}: {error.strerror}\n  name a readable file") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise CannotServe(f"{path} is not YAML that Mooring reads: {error}") from None
    if not isinstance(data, dict):
        raise CannotServe(f"{path} must hold the keys {', '.join(keys)}, got {type(data).__name__}")
    return data


def plain_name(value: object) -> str:
    """A name that may stand in a model's name, a header, a label; ValueError for any other."""
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) is None:
        raise ValueError(f"must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or digit, got {value!r}")
    return value


def worded(entry: Mapping[str, Any]) -> str:
    """One of pydantic's errors, without the place where it is."""
    if entry["type"] == "value_error":
        return str(entry["ctx"]["error"])
    plain = {"extra_forbidden": "is not a known key", "missing": "is missing"}
    return plain.get(entry["type"]) or f"{entry['msg']}, got {entry['input']!r}"


class _Loader(yaml.SafeLoader):
    """PyYAML follows version 1.1, where an unquoted `46:54` is the sexagesimal number 2814 and `off` is false."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,300})", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.?[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
