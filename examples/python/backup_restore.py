"""Takes a backup, lists the catalog, restores it: ``backup_restore.py URL SERVER DSN TARGET_DIR``.

Run it as the user of the server, with the package installed.
"""

from __future__ import annotations

import sys

import barman_snap
from barman_snap.events import Event, StepDone


def tell(event: Event) -> None:
    if isinstance(event, StepDone):
        print(f"{event.step}: {event.elapsed.total_seconds():.3f} s", file=sys.stderr)


def main(url: str, server: str, dsn: str, target_dir: str) -> None:
    engine = barman_snap.Engine(url, server)
    backup = engine.backup(dsn, immediate_checkpoint=True, on_progress=tell).run()
    print(f"backup {backup.backup_id} needs WAL from {backup.begin_lsn} to {backup.end_lsn}")
    for each in engine.list():
        print(each.backup_id, each.status)
    restored = engine.restore(backup.backup_id, target_dir, on_progress=tell)
    print("restored to", restored.target)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except barman_snap.Error as error:
        sys.exit(f"{error.kind}: {error}")
