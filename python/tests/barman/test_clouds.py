"""``barman-cloud-backup``, ``-restore`` and ``-backup-delete`` through the adapter, in each cloud, with real bytes.

The commands that have nothing to do with snapshots (list, show, keep, the WAL ones) are the stock ones, unpatched where they
can read the engine's catalog by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bed import SERVER, VERSIONS, Barman, Cluster, need_postgres, own_directory, place, run
from clouds_bed import DISK, INSTANCE, Machine, Server, running

_ALL = [f"{cloud}-{version}" for cloud in ("aws", "gcp", "azure") for version in VERSIONS]
# What does not depend on cloud and version.
_ONE = [_ALL[0]]


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine that can be backed up."""
    name, version = request.param.split("-")
    barman = Barman.of(version)
    need_postgres()
    with place() as at, running(name, at / "cloud") as cloud:
        machine = Machine(barman, cloud, at)
        try:
            machine.start()
            machine.cluster.fill()
            yield machine
        finally:
            machine.stop()


@pytest.mark.parametrize("machine", _ALL, indirect=True)
def test_a_backup_is_taken_listed_restored_to_new_volumes_and_deleted(machine: Machine) -> None:
    at_backup = machine.cluster.sums()
    backup = machine.backup("--name", "nightly", "--tags" if machine.barman.old else "--tag", "team,db", "-v")
    # The engine has a journal, and its snapshots bear its token.
    assert len(machine.keys(f"sessions/{backup}/")) > 10
    [snapshot] = machine.cloud.snapshots()
    assert backup.lower() in snapshot["name"]

    show = machine.adapter if machine.barman.old else machine.stock
    shown = show("backup-show", "--format", "json", "--", backup).json()[SERVER]
    assert (shown["status"], shown["backup_name"]) == ("DONE", "nightly")
    assert shown["snapshots_info"]["provider"] == machine.cloud.name
    machine.adapter("backup-keep", "--target", "full", "--", backup).ok()
    refused = machine.adapter("backup-delete", "-b", backup)
    assert refused.code == 1 and machine.ids() == [backup]
    machine.adapter("backup-keep", "--release", "--", backup).ok()

    machine.cluster.sql("DROP TABLE kept")
    machine.stop()
    new = machine.at / "n"
    restored = Cluster(new / DISK / "data", own_directory(machine.at / "t"))
    restored.env = machine.cloud.env
    try:
        option = ("--snapshot-recovery-instance", INSTANCE)
        machine.adapter("restore", *option, "--", backup, restored.data, root=True).ok()
        # To the end of the backup: the rest of the WAL has the DROP in it.
        with open(restored.data / "postgresql.auto.conf", "a", encoding="utf-8") as file:
            file.write("recovery_target = 'immediate'\nrecovery_target_action = 'promote'\narchive_mode = off\n")
        restored.start()
        assert restored.sums() == at_backup
    finally:
        restored.stop()
        run("umount", new / DISK, root=True)

    dry = machine.adapter("backup-delete", "-b", backup, "--dry-run").ok()
    assert snapshot["name"] in dry and "backup.info" in dry and machine.ids() == [backup]
    machine.adapter("backup-delete", "-b", backup).ok()
    assert (machine.ids(), machine.cloud.snapshots(), machine.keys(f"base/{backup}/")) == ([], [], [])


@pytest.mark.parametrize("machine", _ALL, indirect=True)
def test_a_server_of_barman_has_its_backups_in_the_cloud(machine: Machine) -> None:
    server = Server(machine)
    server.start()
    at_backup = machine.cluster.sums()
    checked = server.run("check", SERVER).ok()
    for line in ("instance exists", "disks attached to instance", "disks mounted on instance"):
        assert f"snapshot {line}: OK" in checked
    server.run("backup", SERVER, "--immediate-checkpoint", "--wait").ok()
    [backup] = server.ids()
    assert server.events(backup)[-1] == "published"
    shown = server.run("show-backup", SERVER, backup).ok()
    assert "DONE" in shown and f"{DISK}-{backup.lower()}" in shown
    assert len(machine.cloud.snapshots()) == 1

    machine.stop()
    restored = Cluster(machine.at / "n" / DISK / "data", own_directory(machine.at / "t"))
    try:
        option = ("--snapshot-recovery-instance", INSTANCE)
        server.run("recover", *option, SERVER, backup, restored.data).ok()
        # Barman has copied the WAL as root.
        run("chown", "-R", "--reference", machine.at, restored.data, root=True).ok()
        restored.start()
        assert restored.sums() == at_backup
    finally:
        restored.stop()
        run("umount", machine.at / "n" / DISK, root=True)
    server.run("delete", SERVER, backup).ok()
    assert (server.ids(), machine.cloud.snapshots()) == ([], [])


@pytest.mark.parametrize("machine", _ALL[:2], indirect=True)
def test_volumes_that_were_made_and_mounted_by_hand_are_used(machine: Machine) -> None:
    """As stock Barman has always wanted it."""
    at_backup = machine.cluster.sums()
    backup = machine.backup()
    [snapshot] = machine.cloud.snapshots()
    machine.cluster.sql("DROP TABLE kept")
    machine.stop()
    machine.mount_copy(snapshot["id"])
    # Both have the same place now; the data directory of the copy is what was there at the backup.
    machine.adapter("restore", "--snapshot-recovery-instance", INSTANCE, "--", backup, machine.cluster.data).ok()
    with open(machine.cluster.data / "postgresql.auto.conf", "a", encoding="utf-8") as file:
        file.write("recovery_target = 'immediate'\nrecovery_target_action = 'promote'\narchive_mode = off\n")
    machine.cluster.start()
    assert machine.cluster.sums() == at_backup


@pytest.mark.parametrize("machine", _ALL[:2], indirect=True)
def test_local_snapshots_with_a_catalog_in_a_cloud(machine: Machine) -> None:
    machine.configure("snapshot_provider = local")
    at_backup = machine.cluster.sums()
    where = ("-h", machine.cluster.socket, "-U", "postgres", "--immediate-checkpoint")
    machine.adapter("backup", *where, "--snapshot-disk", machine.cluster.data).ok()
    [backup] = machine.ids()
    assert list(machine.mount.rglob(f"*{backup.lower()}*")) and machine.cloud.snapshots() == []
    assert len(machine.keys(f"sessions/{backup}/")) > 10
    machine.cluster.sql("DROP TABLE kept")
    restored = Cluster(own_directory(machine.mount / "r") / "data", own_directory(machine.at / "t"))
    restored.env = machine.cloud.env
    try:
        machine.adapter("restore", "--", backup, restored.data).ok()
        with open(restored.data / "postgresql.auto.conf", "a", encoding="utf-8") as file:
            file.write("recovery_target = 'immediate'\nrecovery_target_action = 'promote'\narchive_mode = off\n")
        restored.start()
        assert restored.sums() == at_backup
    finally:
        restored.stop()
    machine.adapter("backup-delete", "-b", backup).ok()
    assert (machine.ids(), machine.keys(f"base/{backup}/")) == ([], [])
    assert not list(machine.mount.rglob(f"*{backup.lower()}*"))


@pytest.mark.parametrize("machine", _ONE, indirect=True)
def test_a_policy_deletes_what_it_does_not_need(machine: Machine) -> None:
    backups = [machine.backup() for _ in range(3)]
    machine.adapter("backup-delete", "-r", "REDUNDANCY 1").ok()
    assert machine.ids() == backups[2:]
    [snapshot] = machine.cloud.snapshots()
    assert backups[2].lower() in snapshot["name"]
    refused = machine.adapter("backup-delete", "-b", backups[2], "-m", "1")
    assert refused.code == 1 and machine.ids() == backups[2:]


@pytest.mark.parametrize("machine", _ONE, indirect=True)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(machine: Machine) -> None:
    where = ("-h", machine.cluster.socket, "-U", "postgres")
    missing = machine.adapter("backup", *where, "--snapshot-instance", INSTANCE, "--snapshot-disk", "nowhere")
    assert missing.code == 1 and "nowhere" in missing.err and "Traceback" not in missing.err
    refused = machine.adapter("backup", "-e", "AES256", *where, "--snapshot-instance", INSTANCE, "--snapshot-disk", DISK)
    assert refused.code == 4 and "--encryption" in refused.err and "Traceback" not in refused.err
    machine.cloud.control("faults", [{"action": "CreateSnapshot", "kind": "denied"}])
    denied = machine.adapter("backup", *where, "--snapshot-instance", INSTANCE, "--snapshot-disk", DISK)
    assert denied.code == 1 and "Traceback" not in denied.err
    assert (machine.ids(), machine.cloud.snapshots()) == ([], [])
