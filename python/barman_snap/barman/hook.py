"""Carries the table out when Barman's modules are imported, whoever imports them.

Modules of Barman bind names of each other when they are imported, so a name is replaced right after its own module has
been executed, and never before. What this is not: a change of any file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Optional

from . import table

__all__ = ["install"]


class _Loader(Loader):
    """The loader of one of Barman's modules, and the table after it."""

    def __init__(self, stock: Loader) -> None:
        self._stock = stock

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        return self._stock.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._stock.exec_module(module)
        _carry_out(module)

    def __getattr__(self, name: str) -> object:
        # What else is asked of a loader: the path of the file, say, for a traceback.
        return getattr(self._stock, name)


class _Finder(MetaPathFinder):
    """Finds the modules of the table as they would be found without it."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        if fullname not in table.modules():
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader)
                return spec
        return None


def install() -> None:
    """From now on the table is carried out. Has no effect the second time."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name in table.modules():
        if name in sys.modules:
            _carry_out(sys.modules[name])


def _carry_out(module: ModuleType) -> None:
    try:
        table.apply(module)
    except table.Unsuitable as error:
        # Never with status 1 or 2: to some callers of Barman those mean something.
        print(f"barman-snap: {error}", file=sys.stderr)
        raise SystemExit(4) from error
