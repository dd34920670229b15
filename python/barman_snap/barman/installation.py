"""Switching the adapter on for all commands of a Python environment, and off again.

Two files in its ``site-packages``, and nothing else anywhere: a ``.pth`` file, which Python reads when it starts, and the
small module that it imports. They have no effect without a configuration (`settings`).
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from . import table
from .settings import DEFAULT_FILE, VARIABLE

__all__ = ["install", "status", "uninstall"]

_MODULE = "barman_snap_startup"


def _files() -> tuple[Path, Path]:
    """The ``.pth`` file and the module."""
    place = Path(sysconfig.get_paths()["purelib"])
    return place / f"{_MODULE}.pth", place / f"{_MODULE}.py"


def _content() -> tuple[str, str]:
    module = Path(__file__).with_name("startup.py").read_text(encoding="utf-8")
    return f"import {_MODULE}\n", module


def install() -> list[str]:
    """Installs, and says what was done. `table.Unsuitable` if there is no Barman that the adapter knows."""
    version = table.check_version()
    pth, module = _files()
    content = _content()
    # The module first: a .pth file that imports what is not there complains at every start.
    for file, text in ((module, content[1]), (pth, content[0])):
        file.write_text(text, encoding="utf-8")
    return [
        f"wrote {module}",
        f"wrote {pth}",
        f"the commands of Barman {version} here use the engine where {VARIABLE} or {DEFAULT_FILE} says so",
    ]


def uninstall() -> list[str]:
    """Removes what `install` has written, and says so."""
    done = []
    pth, module = _files()
    cached = sorted(module.parent.glob(f"__pycache__/{_MODULE}.*.pyc"))
    for file in (pth, module, *cached):
        if file.exists():
            file.unlink()
            done.append(f"removed {file}")
    return done or ["it was not installed here"]


def status() -> tuple[bool, list[str]]:
    """Whether it is installed and all right, and what there is to say."""
    pth, module = _files()
    present = [file.exists() and file.read_text(encoding="utf-8") == text for file, text in zip((pth, module), _content())]
    lines = []
    try:
        lines.append(f"Barman {table.check_version()}: known")
        known = True
    except table.Unsuitable as error:
        lines.append(str(error))
        known = False
    if all(present):
        lines.append(f"installed: {pth}")
    elif pth.exists() or module.exists():
        lines.append("installed by another version, or half: run install again")
    else:
        lines.append("not installed")
    lines.append(f"{DEFAULT_FILE}: {'there' if DEFAULT_FILE.exists() else 'not there'}")
    return known and all(present), lines
