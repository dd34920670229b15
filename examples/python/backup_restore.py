"""Takes a backup, lists the catalog, restores it: ``backup_restore.py URL SERVER DSN TARGET_DIR``.

Run it as the user of the server, with the package installed.
"""

from __future__ import annotations

import sys
from typing import Any

import barman_snap


def tell(event: dict[str, Any]) -> None:
    if event["event"] == "step_done":
        print(f"{event['step']}: {event['elapsed_ms']} ms", file=sys.stderr)


def main(url: str, server: str, dsn: str, target_dir: str) -> None:
    engine = barman_snap.Engine(url, server)
    backup = engine.backup(dsn, immediate_checkpoint=True, on_progress=tell)
    print(f"backup {backup.id} needs WAL from {backup.begin_lsn} to {backup.end_lsn}")
    for each in engine.list()["backups_list"]:
        print(each["backup_id"], each["status"])
    restored = engine.restore(backup.id, target_dir)
    print("restored to", restored["target"])


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except barman_snap.BarmanSnapError as error:
        sys.exit(f"{error.kind}: {error}")
