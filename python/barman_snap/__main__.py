"""``python -m barman_snap wal-archive URL SERVER PATH`` and ``wal-restore [--new-tablespaces inside] URL SERVER NAME DEST``.

For ``archive_command`` and ``restore_command`` where the command line is not installed; a restored server uses it. It knows
only these two. Exit codes as PostgreSQL needs them: 0 done, 1 refused, or for ``wal-restore`` not in the archive and nothing else, 2 could not
be reached, 3 wrong arguments, 4 damaged data, a defect, or for ``wal-restore`` whatever else went wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import NoReturn, Optional

from . import Engine, Error

_EXIT_CODES = {"invalid_input": 3, "unavailable": 2, "corrupt": 4, "internal": 4}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(3, f"error: {message}\n")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = _Parser(prog="python -m barman_snap", description="One WAL file, to or from the catalog.")
    parser.add_argument("--endpoint-url")
    parser.add_argument("--aws-profile")
    parser.add_argument("--aws-region")
    parser.add_argument("--read-timeout", type=int, metavar="SECONDS")
    parser.add_argument("--addressing-style", default="auto")
    parser.add_argument("--azure-credential")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    archive = commands.add_parser("wal-archive", help="store one WAL file (for archive_command)")
    restore = commands.add_parser("wal-restore", help="fetch one WAL file (for restore_command)")
    for command in (archive, restore):
        command.add_argument("url")
        command.add_argument("server")
    archive.add_argument("path")
    restore.add_argument("name")
    restore.add_argument("destination")
    restore.add_argument("--new-tablespaces", choices=("original", "inside"), default="original")
    options = parser.parse_args(arguments)
    try:
        engine = Engine(
            options.url,
            options.server,
            endpoint_url=options.endpoint_url,
            aws_profile=options.aws_profile,
            aws_region=options.aws_region,
            read_timeout=None if options.read_timeout is None else timedelta(seconds=options.read_timeout),
            addressing_style=options.addressing_style,
            azure_credential=options.azure_credential,
        )
        if options.command == "wal-archive":
            engine.wal_archive(options.path)
        else:
            engine.wal_restore(options.name, options.destination, new_tablespaces=options.new_tablespaces)
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        other = 4 if options.command == "wal-restore" and error.kind != "not_found" else 1
        return _EXIT_CODES.get(error.kind, other)
    return 0


if __name__ == "__main__":
    sys.exit(main())
