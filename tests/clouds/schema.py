"""Checks JSON against Google's discovery documents, which the wheel of google-api-python-client contains.

They are the published schema of every request and response, with the type of each field and the values of enumerations.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@cache
def document(name: str) -> dict[str, Any]:
    """The document of an API, such as `compute.v1`."""
    spec = find_spec("googleapiclient")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "discovery_cache" / "documents" / f"{name}.json"
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


@cache
def _methods(name: str) -> list[tuple[str, re.Pattern[str], dict[str, Any]]]:
    root = document(name)
    base = "/" + root["servicePath"].strip("/")
    found: list[tuple[str, re.Pattern[str], dict[str, Any]]] = []

    def walk(resources: dict[str, Any]) -> None:
        for resource in resources.values():
            for method in resource.get("methods", {}).values():
                template = f"{base}/{method['path']}".replace("//", "/")
                pattern = re.sub(r"\{\+?(\w+)\}", r"[^/]+", template)
                found.append((method["httpMethod"], re.compile(pattern), method))
            walk(resource.get("resources", {}))

    walk(root["resources"])
    return found


def method(api: str, verb: str, path: str) -> dict[str, Any]:
    """The published method of a request. Fails if there is none: then the fake offers what does not exist."""
    for known, pattern, found in _methods(api):
        if known == verb and pattern.fullmatch(path):
            return found
    raise AssertionError(f"{api} has no method {verb} {path}")


def problems(api: str, schema: str, value: Any) -> list[str]:
    """All that is wrong with a value of this schema."""
    return list(_check(document(api)["schemas"], {"$ref": schema}, value, schema))


def _check(schemas: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> list[str]:
    if "$ref" in schema:
        return _check(schemas, schemas[schema["$ref"]], value, where)
    match schema.get("type"):
        case "object":
            return _object(schemas, schema, value, where)
        case "array":
            if not isinstance(value, list):
                return [f"{where} is no list: {value!r}"]
            return [
                each
                for at, item in enumerate(value)
                for each in _check(schemas, schema["items"], item, f"{where}[{at}]")
            ]
        case "string":
            return _string(schema, value, where)
        case "boolean":
            return [] if isinstance(value, bool) else [f"{where} is no boolean: {value!r}"]
        case "integer":
            whole = isinstance(value, int) and not isinstance(value, bool)
            return [] if whole else [f"{where} is no integer: {value!r}"]
        case "number":
            return [] if isinstance(value, (int, float)) else [f"{where} is no number: {value!r}"]
    return []


def _object(schemas: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is no object: {value!r}"]
    known, more = schema.get("properties", {}), schema.get("additionalProperties")
    found = []
    for name, member in value.items():
        if name in known:
            found += _check(schemas, known[name], member, f"{where}.{name}")
        elif more is not None:
            found += _check(schemas, more, member, f"{where}.{name}")
        else:
            found.append(f"{where} has no member {name}")
    return found


def _string(schema: dict[str, Any], value: Any, where: str) -> list[str]:
    if not isinstance(value, str):
        return [f"{where} is no string: {value!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where} is none of the published values: {value!r}"]
    if schema.get("format") in ("uint64", "int64") and not re.fullmatch(r"-?\d+", value):
        return [f"{where} is no number: {value!r}"]
    # Many patterns are those of the names a client may choose; Google's own ids obey them as well.
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        return [f"{where} does not match {schema['pattern']}: {value!r}"]
    return []
