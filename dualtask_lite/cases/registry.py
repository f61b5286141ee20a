"""The known sources of cases, read from ``data/sources.yaml``; without torch, so that commands start quickly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import yaml

from dualtask_lite.resources import data_file


@dataclass(frozen=True)
class Source:
    """A known set of cases; the head of ``data/sources.yaml`` explains each value."""

    name: str
    title: str
    cases: int
    hospitals: str
    licence: str
    citation: str
    url: str
    size_gb: float
    how: Literal["made", "fetched"]
    layout: str
    ids: str
    label_map: Mapping[int, int]
    by_hand: str
    fetch: Mapping[str, Any]
    unverified: tuple[str, ...]


@lru_cache(maxsize=1)
def sources() -> dict[str, Source]:
    """Read the known sources, by name, in the order of ``data/sources.yaml``."""
    entries = yaml.safe_load(data_file("sources.yaml").read_text(encoding="utf-8"))
    for entry in entries.values():  # each address is written once
        entry["by_hand"] = entry["by_hand"].format(**entry["fetch"])
    return {
        name: Source(name=name, **{**entry, "unverified": tuple(entry["unverified"])})
        for name, entry in entries.items()
    }


def sources_table() -> str:
    """Write the known sources as the Markdown table of ``data/README.md``."""
    rows = [
        f"| `{s.name}` | {s.title} | {s.cases} | {s.size_gb:g} GB | {s.licence} | {s.hospitals} | {s.citation} |"
        for s in sources().values()
    ]
    head = "| name | what | cases | size | licence | hospitals | cite |"
    return "\n".join([head, "|" + " --- |" * 7, *rows]) + "\n"
