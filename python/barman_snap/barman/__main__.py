"""``python -m barman_snap.barman``: see the usage below, and ``docs/barman-adapter.md``.

Exit codes: those of the command; 3 for wrong arguments, 4 for a Barman that the adapter does not know, and for ``status``
1 if it is not installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any, Callable, Optional

from . import hook, installation, table
from .settings import DEFAULT_FILE, VARIABLE, is_off

_USAGE = """\
usage: python -m barman_snap.barman -- COMMAND [ARGUMENT ...]   run a command of Barman on the engine
       python -m barman_snap.barman install                     switch it on for all commands of this environment
       python -m barman_snap.barman uninstall                   and off again
       python -m barman_snap.barman status                      say how it stands
       python -m barman_snap.barman table                       say what is replaced in Barman, and why
"""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if len(words) > 1 and words[0] == "--":
            return _run(words[1:])
        if words == ["install"]:
            return _say(installation.install())
        if words == ["uninstall"]:
            return _say(installation.uninstall())
        if words == ["status"]:
            good, lines = installation.status()
            return _say(lines, 0 if good else 1)
        if words == ["table"]:
            return _say([f"Barman {', '.join(table.VERSIONS)}", *map(_row, table.ROWS)])
    except table.Unsuitable as error:
        print(f"barman-snap: {error}", file=sys.stderr)
        return 4
    except OSError as error:
        print(f"barman-snap: {error}", file=sys.stderr)
        return 1
    if words in (["--help"], ["-h"]):
        print(_USAGE, end="")
        return 0
    print(_USAGE, end="", file=sys.stderr)
    return 3


def _say(lines: Sequence[str], code: int = 0) -> int:
    print("\n".join(lines))
    return code


def _row(row: table.Row) -> str:
    return f"{row.module}.{row.name}: {row.why}"


def _run(words: Sequence[str]) -> int:
    """Runs a command of Barman in this process, as its own script would."""
    if not is_off():
        table.check_version()
    name = os.path.basename(words[0])
    found = [
        entry
        for entry in metadata.distribution("barman").entry_points
        if entry.group == "console_scripts" and entry.name == name
    ]
    if not found:
        print(f"barman-snap: {name} is no command of Barman", file=sys.stderr)
        return 3
    # Whoever comes through this door wants the engine, unless something says otherwise.
    if not DEFAULT_FILE.exists():
        os.environ.setdefault(VARIABLE, "on")
    if not is_off():
        hook.install()
    # Barman's modules import each other in a circle that has to be entered here.
    import_module("barman.output")
    sys.argv = [name, *words[1:]]
    main_function: Callable[[], Any] = found[0].load()
    return main_function() or 0


if __name__ == "__main__":
    sys.exit(main())
