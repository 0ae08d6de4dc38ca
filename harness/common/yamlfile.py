"""YAML files that people write: suites, studies, recipes. Torch-free.

Plain mappings, read by `yaml.SafeLoader` and refused before anything is built where the text is
more than its size: aliases (a few of them expand to billions of values, or contain themselves) and
nesting deeper than any file of ours needs (the parser recurses). Numbers are those of YAML 1.2:
1e-3 is one, 010 is not eight and 1:30 is not ninety; these and dates stay text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from harness.common.errors import UsageError, is_text, one_line

MOST_BYTES = 64 * 1024  # ten times the longest file that ships; read in well under a second
DEEPEST = 20  # levels; the longest suite has five


class PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases, deep nesting and keys that stand twice."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused(f"an alias (*{event.anchor}): write the value out", event)
        self.depth += 1
        if self.depth > DEEPEST:
            raise _refused(f"nested deeper than {DEEPEST} levels", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and not is_text(value):  # written as an escape
            raise _refused("text with a NUL or half a character", node)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue  # refused below, where it is not hashable
                if key.value in seen:
                    raise _refused(f"the key '{key.value}' stands twice", key)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


INT = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$")
KEPT = ("bool", "null", "merge", "value")  # implicit types of YAML 1.1 that stay as they are
PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag.rpartition(":")[2] in KEPT]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", INT, list("-+0123456789"))
PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


def read_mapping(path: Path, shown: str = "") -> dict[str, Any]:
    """The mapping in a YAML file.

    `shown`: how messages call the file, its path unless given. Raises UsageError, one line: no
    such file, too long, not UTF-8, not YAML, not a mapping, a key twice, aliases, deep nesting.
    """
    shown = shown or str(path)
    try:
        if path.exists() and not path.is_file():  # a folder, or a pipe that would never end
            raise UsageError(f"{shown}: is not a file")
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UsageError(f"{shown}: longer than {MOST_BYTES // 1024} KiB")
        values = yaml.load(content.decode("utf-8"), Loader=PlainLoader)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"{shown}: {error.strerror or one_line(error)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown}: not UTF-8 text (byte {error.start})") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{shown}: not valid YAML ({_why(error)})") from None
    except Exception as error:  # of a scalar: a number of 5,000 digits, the 99th of a month
        raise UsageError(f"{shown}: holds no plain value ({one_line(error, 120)})") from None
    if not isinstance(values, dict):
        raise UsageError(f"{shown}: expected `key: value` lines")
    other = next((key for key in values if not isinstance(key, str)), None)
    if other is not None:
        raise UsageError(f"{shown}: the key '{other}' is no text")
    return values


def _refused(what: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=at.start_mark)


def _why(error: yaml.YAMLError) -> str:
    """The problem and its line, without the snippet of the text that YAML adds."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return one_line(f"line {error.problem_mark.line + 1}: {error.problem}", 160)
    return one_line(error, 160)
