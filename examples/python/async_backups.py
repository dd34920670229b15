"""Takes backups of several servers at once with asyncio: ``async_backups.py URL SERVER=DSN...``.

All of them run in one thread of Python. Ctrl-C, or the failure of one, cancels and undoes the others.
"""

from __future__ import annotations

import asyncio
import sys

import barman_snap
from barman_snap.events import StepDone
from barman_snap.results import Backup


async def back_up(url: str, server: str, dsn: str) -> Backup:
    engine = barman_snap.Engine(url, server)
    # What a process that died has left is completed or undone.
    for rescue in await engine.recover_async():
        print(f"{server}: {rescue.backup_id} is {rescue.ended}", file=sys.stderr)
    async with engine.backup_async(dsn, immediate_checkpoint=True) as session:
        async for event in session.events_async():
            if isinstance(event, StepDone):
                print(f"{server}: {event.step}", file=sys.stderr)
    assert session.backup is not None
    return session.backup


async def main(url: str, *servers: str) -> None:
    tasks = [asyncio.create_task(back_up(url, *each.split("=", 1))) for each in servers]
    try:
        for backup in await asyncio.gather(*tasks):
            print(f"backup {backup.backup_id}: {backup.backup_mode.total_seconds():.3f} s in backup mode")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        asyncio.run(main(*sys.argv[1:]))
    except barman_snap.Error as error:
        sys.exit(f"{error.kind}: {error}")
