"""YAML as policy directories use it: plain values that know their line. One value has one reading, or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from stepgrant_gateway.policy.durations import DURATION_FORM, parse_duration
from stepgrant_gateway.policy.findings import nearest, refused

MAX_YAML_BYTES: Final = 1024 * 1024
MAX_YAML_DEPTH: Final = 24
MAX_YAML_NODES: Final = 100_000

_NAMES: Final = {str: "text", Decimal: "a number", bool: "true or false", tuple: "a list", dict: "a mapping"}


@dataclass(frozen=True, slots=True)
class Value:
    """One YAML value and its place. Numbers are `Decimal`, lists tuples of Value, mappings have text keys."""

    file: str
    line: int
    data: Any
    key_lines: Mapping[str, int]

    def refuse(self, message: str, *, nearest_name: str = "", key: str | None = None) -> NoReturn:
        """Raises PolicyRefusedError at this value, or at one of its keys."""
        line = self.line if key is None else self.key_lines.get(key, self.line)
        raise refused(self.file, line, message, nearest_name=nearest_name)

    def text(self, what: str) -> str:
        """The text that this is; not empty."""
        text: str = self._of(str, what)
        return text or self.refuse(f"{what} is empty")

    def boolean(self, what: str) -> bool:
        """The truth value that this is."""
        value: bool = self._of(bool, what)
        return value

    def number(self, what: str) -> Decimal:
        """The number that this is."""
        value: Decimal = self._of(Decimal, what)
        return value

    def count(self, what: str, *, least: int, most: int) -> int:
        """The whole number that this is, between `least` and `most`."""
        number = self.number(what)
        if number != number.to_integral_value() or not least <= number <= most:
            self.refuse(f"{what} is not a whole number from {least} to {most}")
        return int(number)

    def duration(self, what: str) -> Any:
        """The span that this is, a timedelta."""
        span = parse_duration(self.text(what))
        return span if span is not None else self.refuse(f"{what} is not {DURATION_FORM}")

    def items(self, what: str, *, most: int) -> tuple[Value, ...]:
        """The elements of this list, at most `most`."""
        items: tuple[Value, ...] = self._of(tuple, what)
        if len(items) > most:
            self.refuse(f"{what} has {len(items)} entries, more than {most}")
        return items

    def entries(self, what: str, *, most: int) -> dict[str, Value]:
        """The entries of this mapping, at most `most`."""
        entries: dict[str, Value] = self._of(dict, what)
        if len(entries) > most:
            self.refuse(f"{what} has {len(entries)} entries, more than {most}")
        return entries

    def section(self, what: str, *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> dict[str, Value]:
        """The entries of this mapping with known keys only, the required ones all there."""
        known = (*required, *optional)
        entries = self.entries(what, most=MAX_YAML_NODES)
        for key in entries:
            if key not in known:
                self.refuse(f"{what} has no key `{key[:64]}`", nearest_name=nearest(key, known), key=key)
        for key in required:
            if key not in entries:
                self.refuse(f"{what} lacks `{key}`")
        return entries

    def choice(self, what: str, choices: tuple[str, ...]) -> str:
        """The one of `choices` that this is."""
        text = self.text(what)
        if text not in choices:
            self.refuse(f"{what} is none of {', '.join(choices)}", nearest_name=nearest(text, choices))
        return text

    def _of(self, kind: type, what: str) -> Any:
        if type(self.data) is not kind:
            found = "nothing" if self.data is None else _NAMES.get(type(self.data), "something else")
            self.refuse(f"{what} is {found}, and must be {_NAMES[kind]}")
        return self.data


def read_yaml(file: str, content: bytes) -> Value:
    """The one document of a YAML file.

    Refused: more than MAX_YAML_BYTES, MAX_YAML_DEPTH levels or MAX_YAML_NODES values; anchors, aliases, merge keys and
    tags; keys that stand twice or are no text; dates, sexagesimal, octal, hexadecimal and infinite numbers.

    Raises:
        PolicyRefusedError: with file and line.
    """
    if len(content) > MAX_YAML_BYTES:
        raise refused(file, 0, f"the file takes {len(content)} bytes, more than {MAX_YAML_BYTES}")
    try:
        text = content.decode("utf-8")
        _refuse_structure(file, text)
        # SafeLoader only resolves tags here: compose builds nodes and never an object.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise refused(file, 0, "the file is not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise refused(
            file, mark.line + 1 if mark is not None else 0, f"not YAML: {error.problem or error.context}"
        ) from None
    except yaml.YAMLError:
        raise refused(file, 0, "not YAML: it holds characters that YAML does not have") from None
    if root is None:
        raise refused(file, 0, "the file is empty")
    return _value(file, root)


def _refuse_structure(file: str, text: str) -> None:
    depth = count = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = _line(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise refused(file, line, "a second document in one file; keep one")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise refused(file, line, "anchors and aliases are not read; write the value out")
        if isinstance(event, yaml.NodeEvent):
            count += 1
            if getattr(event, "tag", None) is not None:
                raise refused(file, line, "tags are not read; write a plain value")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_YAML_DEPTH or count > MAX_YAML_NODES:
            raise refused(file, line, f"more than {MAX_YAML_DEPTH} levels or {MAX_YAML_NODES} values")


def _line(mark: Any) -> int:
    line: int = 0 if mark is None else mark.line + 1
    return line


def _value(file: str, node: Node) -> Value:
    line = _line(node.start_mark)
    if isinstance(node, SequenceNode):
        return Value(file, line, tuple(_value(file, item) for item in node.value), {})
    if isinstance(node, MappingNode):
        return _mapping(file, line, node)
    return Value(file, line, _scalar(file, line, node), {})


def _mapping(file: str, line: int, node: MappingNode) -> Value:
    entries: dict[str, Value] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key_line = _line(key_node.start_mark)
        if not isinstance(key_node, ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            raise refused(file, key_line, "a key that is no text; put it in quotes")
        key = key_node.value
        if key in entries:
            raise refused(file, key_line, f"`{key[:64]}` stands here and on line {lines[key]}")
        entries[key] = _value(file, value_node)
        lines[key] = key_line
    return Value(file, line, entries, lines)


def _scalar(file: str, line: int, node: Node) -> str | Decimal | bool | None:
    text: str = node.value
    match node.tag.removeprefix("tag:yaml.org,2002:"):
        case "str":
            return text
        case "bool":
            if text in {"true", "false"}:
                return text == "true"
        case "null":
            return None
        case "int" | "float":
            return _number(file, line, text)
    raise refused(
        file, line, f"`{text[:64]}` has more than one reading in YAML; write true, false, or put it in quotes"
    )


def _number(file: str, line: int, text: str) -> Decimal:
    digits = text.removeprefix("-")
    whole, point, fraction = digits.partition(".")
    plain = whole.isascii() and whole.isdigit() and (whole == "0" or whole[0] != "0") and len(text) <= 32
    if not plain or (point and not (fraction.isascii() and fraction.isdigit())):
        raise refused(file, line, f"`{text[:64]}` is not a plain decimal number; put it in quotes if it is text")
    return Decimal(text)
