"""Filter expressions of the Compute Engine list calls, as far as clients of ours use them.

https://cloud.google.com/compute/docs/reference/rest/v1/snapshots/list#query-parameters: `FIELD = VALUE` (`!=`, and `:` for
"contains") compares exactly, `FIELD eq REGEX` (`ne`) matches a whole value against a regular expression. Several
expressions in parentheses, or joined by AND, all have to hold. What is not known here is refused and never guessed.
"""

from __future__ import annotations

import re
from typing import Any

_TERM = re.compile(
    r"""\s*(?P<field>[A-Za-z][\w.-]*)\s*(?:(?P<sign>!=|=|:)\s*|\s(?P<word>eq|ne)\s+)"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s()"]+))\s*""",
    re.VERBOSE,
)


class BadFilter(ValueError):
    """An expression that cannot be understood."""


def matches(expression: str | None, resource: dict[str, Any]) -> bool:
    """Whether a resource passes."""
    return all(_holds(term, resource) for term in _terms(expression or ""))


def _terms(expression: str) -> list[re.Match[str]]:
    terms = []
    for part in re.split(r"\)\s*(?:AND\s*)?\(|\bAND\b", expression.strip().removeprefix("(").removesuffix(")")):
        if not part.strip():
            continue
        if not (term := _TERM.fullmatch(part)):
            raise BadFilter(f"Invalid list filter expression: {part.strip()!r}")
        terms.append(term)
    return terms


def _holds(term: re.Match[str], resource: dict[str, Any]) -> bool:
    found: Any = resource
    head, _, key = term["field"].partition(".")
    # The key of a label may have dashes in it, and no dots.
    for name in (head, key) if key else (head,):
        found = found.get(name) if isinstance(found, dict) else None
    value = term["bare"] if term["quoted"] is None else re.sub(r"\\(.)", r"\1", term["quoted"])
    text = None if found is None else str(found).lower() if isinstance(found, bool) else str(found)
    match term["sign"] or term["word"]:
        case "=":
            return text == value
        case "!=":
            return text != value
        case ":":
            return text is not None and (value == "*" or value in text)
        case "eq":
            return text is not None and re.fullmatch(value, text) is not None
        case _:
            return text is None or re.fullmatch(value, text) is None
