"""Modality and label values that ``dataset.json`` declares, with the keys of the Decathlon or of nnU-Net.

Two data sets may number the same organs differently. The names of the labels decide what each value means; an unknown
name is an error, never a guess.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualtask_lite.cases.findings import LABELS, meanings_of
from dualtask_lite.errors import DualTaskError

_log = logging.getLogger(__name__)
_ORGAN = {"pancreas", "pancreatic", "parenchyma"}
_LESION = {"tumour", "tumor", "tumours", "tumors", "cancer", "lesion", "lesions", "mass", "pdac", "carcinoma"}
_FILLERS = {"the", "of", "normal", "healthy"}
_JOINED = r"\band\b|[+&/,;]"  # between the names of two structures that share a value


def label_map_of(described: Mapping[str, Any], file: Path) -> dict[int, int] | None:
    """Map the values of the label files to ours by their names.

    A map without changes is kept when a value of ours is not declared: in the files, that value is unknown.

    Args:
        described: content of ``dataset.json``; ``labels`` is value -> name (Decathlon) or name -> value (nnU-Net).
        file: its path, for messages.

    Returns:
        Declared value -> our value; ``None`` if no label is declared, or all of ours with our values.

    Raises:
        DualTaskError: when a name is unknown; the message lists the declared and the known labels.
    """
    declared = described.get("labels")
    if not declared:
        return None
    try:
        items = [(key, entry) if str(key).isdigit() else (entry, key) for key, entry in declared.items()]
        pairs = [(int(value), str(name)) for value, name in items]
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DualTaskError(
            f"{file}: its labels are not pairs of a value and a name ({declared})",
            'write, say, "labels": {"0": "background", "1": "pancreas", "2": "tumour"}',
        ) from error
    mapped = {value: _meaning(name) for value, name in pairs}
    known = {value: meaning for value, meaning in mapped.items() if meaning is not None}
    if len(known) < len(pairs):
        raise DualTaskError(
            f"{file}: declares the labels {_in_words(dict(pairs))}; known are {_in_words(LABELS)}",
            "keep the known labels in the files and in this list; to predict without labels, give the folder imagesTr",
        )
    if meanings_of(known) == meanings_of(None):
        return None
    changes = ", ".join(f"{value} ({name}) becomes {known[value]}" for value, name in pairs if known[value] != value)
    if changes:
        _log.warning("%s: labels are mapped by their names: %s", file, changes)
    return known


def check_is_ct(described: Mapping[str, Any], file: Path) -> None:
    """Refuse a data set whose declared modality is not CT.

    Raises:
        DualTaskError: when another modality is declared; the message names it.
    """
    declared = described.get("modality") or described.get("channel_names")
    name = declared.get("0", declared.get(0)) if isinstance(declared, Mapping) else declared
    schemes = ("nonorm", "zscore", "rescale", "rgb")  # nnU-Net may name how a channel is normalised instead
    if name and not re.search(r"\bct|ct\b|computed", str(name).lower()) and not str(name).lower().startswith(schemes):
        raise DualTaskError(
            f"{file}: declares images of {name}, not of CT",
            "give a set of CT; when they are CT, correct modality (or channel_names) in this file",
        )


def _meaning(name: str) -> int | None:
    """Our value for a label's name; ``None`` for an unknown name, or one of two structures with different values."""
    structures = [set(re.findall(r"[a-z]+", part)) - _FILLERS for part in re.split(_JOINED, name.lower())]
    meanings = {_meaning_of_one(words) for words in structures if words}
    return meanings.pop() if len(meanings) == 1 else None


def _meaning_of_one(words: set[str]) -> int | None:
    if words == {"background"}:
        return 0
    if words - _ORGAN - _LESION:
        return None
    return 2 if words & _LESION else 1


def _in_words(names: Mapping[Any, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in names.items())
