"""YAML in which a repeated name is an error and a name stays a text, with the line and column of every error."""

from __future__ import annotations

import re
from typing import Any

import yaml

from dualtask_lite.errors import DualTaskError

#: The values that are converted without a mark of their type: type -> pattern. PyYAML follows YAML 1.1, which also
#: takes 001, 100047_00002, 0x1F, 12:30, no and 2024-01-02 for numbers, truth values and dates; but cases and centres
#: have such names, so these are texts here. An integer is converted only if Python writes it as it was typed.
_CONVERTED = {
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "0|-?[1-9][0-9]*",
    "float": r"-?(?:0|[1-9][0-9]*)\.[0-9]*(?:[eE][-+][0-9]+)?",
    "merge": "<<",
}


class _StrictLoader(yaml.SafeLoader):
    """YAML loader that refuses a repeated name in a mapping; PyYAML would silently use the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_marks: dict[str, yaml.Mark] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in first_marks:
                first_line = first_marks[key.value].line + 1
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} is repeated, first in line {first_line}", problem_mark=key.start_mark
                )
            first_marks[key.value] = key.start_mark
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {  # None: whatever the first character is
    None: [(f"tag:yaml.org,2002:{name}", re.compile(f"(?:{pattern})$")) for name, pattern in _CONVERTED.items()]
}


def parse_yaml(text: str, origin: str) -> Any:
    """Parse a YAML text; ``origin`` names its source in messages, for example its file.

    Raises:
        DualTaskError: with line and column, when the text is not valid YAML or repeats a setting.
    """
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506  # a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = error.problem or error.context
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position), error.position - text.rfind("\n", 0, error.position)
        where, reason = f"line {line + 1}, column {column}: ", f"the character {chr(error.character)!r} is not allowed"
    except RecursionError:
        where, reason = "", "it is nested too deeply"
    except (ValueError, LookupError, AttributeError) as error:  # PyYAML does not catch those of its own conversions
        where, reason = "", f"a value is not of the type that it is marked with: {error}"
    remedy = "correct this line: each name once, indented with spaces and not with tabs"
    raise DualTaskError(f"{origin}: cannot be read as YAML ({where}{reason})", remedy)
