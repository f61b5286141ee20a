"""Settings as mappings of sections: dotted names, merging, differences, and the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def as_nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        *sections, leaf = key.split(".")
        values: Any = {leaf: as_nested(value) if isinstance(value, Mapping) else value}
        for section in reversed(sections):
            values = {section: values}
        nested = merge(nested, values)
    return nested


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` updated by ``changes``, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def differences(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from the defaults, in their sections."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping):
            if inner := differences(value, defaults[name]):
                found[name] = inner
        elif name not in defaults or value != defaults[name]:
            found[name] = value
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?`` for the nearest valid name, also in another section."""
    candidates = list(known)
    leaves = {candidate.rpartition(".")[2]: candidate for candidate in candidates}
    leaf = name.rpartition(".")[2]
    nearest = (
        [leaves[leaf]]
        if leaf in leaves
        else difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
        or [leaves[close] for close in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.8)]
    )
    return f", did you mean {nearest[0]!r}?" if nearest else ""
