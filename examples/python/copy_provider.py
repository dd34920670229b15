"""A snapshot provider in Python: it copies directories. ``copy_provider.py STORE VOLUME URL SERVER DSN TARGET_DIR``.

It takes a backup of the cluster that lies on VOLUME (a directory), keeps the copy in STORE, and restores it to TARGET_DIR. A
provider for a storage of your own looks the same: replace what copies and what removes.

A snapshot is a directory ``STORE/<name>`` with ``ticket.json`` (written first, so that every snapshot can be found), then
``content``, then ``done``. Copies are no point in time by themselves; backup mode makes them consistent.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Optional

import barman_snap
from barman_snap.provider import (
    CreateRequest,
    CreateVolumeRequest,
    Instance,
    RestoredVolume,
    SnapshotStatus,
    Ticket,
    Volume,
    VolumeSelection,
)


class CopyProvider(barman_snap.SnapshotProvider):
    """Copies directories. ``volumes`` are those that it may be asked for, ``store`` is where the copies go."""

    name = "copies"

    def __init__(self, store: Path, volumes: Sequence[Path]) -> None:
        self._store = store.resolve()
        self._volumes = [volume.resolve() for volume in volumes]
        self._store.mkdir(parents=True, exist_ok=True)

    def instance(self, name: Optional[str]) -> Instance:
        here = socket.gethostname()
        if name not in (None, here):
            raise barman_snap.NotFoundError(f"this provider knows no host but {here}: {name}")
        return Instance(here)

    def volumes(self, instance: Instance, selection: VolumeSelection) -> Sequence[Volume]:
        wanted: list[Path] = []
        unknown: list[str] = []
        for name in selection.names or ():
            known = Path(name).resolve() in self._volumes
            (wanted.append(Path(name).resolve()) if known else unknown.append(name))
        for path in selection.paths or ():
            holding = [volume for volume in self._volumes if path == volume or volume in path.parents]
            if not holding:
                unknown.append(str(path))
            else:
                # The innermost one, once.
                volume = max(holding, key=lambda each: len(each.parts))
                wanted += [volume] if volume not in wanted else []
        if unknown:
            raise barman_snap.NotFoundError(f"on none of the volumes: {', '.join(unknown)}")
        return [self._volume(path) for path in wanted]

    def _volume(self, path: Path) -> Volume:
        mount_point = next(each for each in [path, *path.parents] if each.is_mount())
        return Volume(
            id=str(path), root=path, mount_point=mount_point, mount_options="rw", device=str(path), method="copy"
        )

    def snapshot_name(self, volume: Volume, backup_id: str) -> str:
        return f"{volume.id.strip('/').replace('/', '-')}-{backup_id.lower()}"

    def check_requests(self, requests: Sequence[CreateRequest]) -> None:
        for request in requests:
            for snapshot in request.volumes:
                if not snapshot.name or "/" in snapshot.name:
                    raise barman_snap.InvalidInputError(f"not a name for a snapshot: {snapshot.name!r}")

    def create(self, request: CreateRequest) -> Sequence[Ticket]:
        snapshot, *others = request.volumes
        if others:
            raise barman_snap.UnsupportedError("several directories cannot be copied at one instant")
        volume, name = snapshot.volume, snapshot.name
        for existing in self.find(request.token, [volume]):
            if existing.volume == volume.id:
                raise barman_snap.ConflictError(f"there is a snapshot of {volume.id} already: {existing.name}")
        ticket = Ticket(
            snapshot=str(self._store / name),
            name=name,
            volume=volume.id,
            root=volume.root,
            method=volume.method,
            token=request.token,
            attributes={"mark": request.mark, "pid": str(os.getpid())},
        )
        place = Path(ticket.snapshot)
        # Complete before it has its name: who finds the directory finds the ticket.
        building = place.with_name(f"{name}.{request.token}.new")
        building.mkdir()
        (building / "ticket.json").write_text(json.dumps(ticket.to_dict()))
        building.rename(place)
        _copy(volume.root, place / "content", lambda path: path == self._store)
        (place / "done").touch()
        return [ticket]

    def status(self, ticket: Ticket) -> SnapshotStatus:
        place = self._place(ticket)
        if (place / "done").exists():
            return SnapshotStatus("ready", percent=100)
        if Path(f"/proc/{ticket.attributes['pid']}").exists():
            return SnapshotStatus("creating")
        return SnapshotStatus("failed", reason="the process that copied it has died")

    def find(self, token: str, volumes: Sequence[Volume]) -> Sequence[Ticket]:
        return [ticket for ticket in self._tickets() if ticket.token == token]

    def list(self, mark: str, volumes: Sequence[Volume]) -> Sequence[Ticket]:
        return [ticket for ticket in self._tickets() if ticket.attributes["mark"] == mark]

    def delete(self, ticket: Ticket) -> None:
        try:
            place = self._place(ticket)
            gone = place.rename(place.with_name(f"{place.name}.gone"))
        except (FileNotFoundError, barman_snap.NotFoundError):
            return
        shutil.rmtree(gone)

    def create_volume(self, request: CreateVolumeRequest) -> RestoredVolume:
        content = self._place(request.ticket) / "content" / request.subtree
        destination = request.destination
        assert destination is not None, "this provider restores to directories"
        if destination.exists() and any(destination.iterdir()):
            raise barman_snap.PreconditionError(f"{destination} is not empty")
        unwanted = {content / path for path in request.exclude_content}
        _copy(content, destination, lambda path: path.parent in unwanted)
        # Beside it, so that nothing but what this has made is ever deleted.
        self._record(destination).write_text(request.token)
        return RestoredVolume(id=str(destination), path=destination, attributes={"token": request.token})

    def delete_volume(self, volume: RestoredVolume) -> None:
        record = self._record(Path(volume.id))
        if not record.exists():
            if Path(volume.id).exists():
                raise barman_snap.PreconditionError(f"no restore has made {volume.id}")
            return
        if record.read_text() != volume.attributes["token"]:
            raise barman_snap.PreconditionError(f"another restore has made {volume.id}")
        shutil.rmtree(volume.id, ignore_errors=True)
        record.unlink()

    def _tickets(self) -> Iterator[Ticket]:
        for path in sorted(self._store.glob("*/ticket.json")):
            if not path.parent.name.endswith((".new", ".gone")):
                yield Ticket.from_dict(json.loads(path.read_text()))

    def _place(self, ticket: Ticket) -> Path:
        """Where a snapshot is, if it exists and carries the token."""
        place = Path(ticket.snapshot)
        try:
            found = Ticket.from_dict(json.loads((place / "ticket.json").read_text()))
        except FileNotFoundError:
            raise barman_snap.NotFoundError(f"no such snapshot: {ticket.snapshot}") from None
        if found.token != ticket.token:
            raise barman_snap.PreconditionError(f"{ticket.snapshot} is not of this session")
        return place

    def _record(self, destination: Path) -> Path:
        return self._store / f"{str(destination).strip('/').replace('/', '-')}.restored"


def _copy(source: Path, target: Path, is_unwanted: Callable[[Path], bool]) -> None:
    """Copies a tree that may change meanwhile: what has vanished is not in it."""

    def unwanted(directory: str, names: list[str]) -> list[str]:
        return [name for name in names if is_unwanted(Path(directory) / name)]

    def copy(path: str, to: str) -> None:
        try:
            shutil.copy2(path, to)
        except FileNotFoundError:
            pass

    shutil.copytree(source, target, symlinks=True, ignore=unwanted, copy_function=copy, dirs_exist_ok=True)


def main(store: str, volume: str, url: str, server: str, dsn: str, target_dir: str) -> None:
    provider = CopyProvider(Path(store), [Path(volume)])
    engine = barman_snap.Engine(url, server, snapshot_provider=provider)
    with engine.backup(dsn, immediate_checkpoint=True) as session:
        for event in session.events():
            print(event, file=sys.stderr)
    print("backup", session.backup_id, "is", session.phase)
    restored = engine.restore(session.backup_id, target_dir)
    print("restored to", restored.target)


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except barman_snap.Error as error:
        sys.exit(f"{error.kind}: {error}")
