"""The whole life of a backup on a Barman server with ``snapshot_provider = local``, by Barman's own commands.

What restores is Barman's, too; that the engine has taken the snapshots is proven by its journal and by the subvolumes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bed import SERVER, VERSIONS, Barman, Cluster, Site, alone as alone, btrfs, need_postgres, own_directory, place, run

_JOURNAL = ["planned", "start_intended", "start_returned", "cut_intended", "stop_returned", "published"]


@pytest.fixture(params=VERSIONS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A server that can be backed up."""
    barman = Barman.of(request.param)
    need_postgres()
    with place() as at, btrfs(at) as fs:
        site = Site(barman, at, fs)
        try:
            site.start()
            site.cluster.fill()
            yield site
        finally:
            site.cluster.stop()


@pytest.fixture
def restored(site: Site) -> Iterator[Cluster]:
    """The place for a restored server, beside the original on the same file system."""
    cluster = Cluster(own_directory(site.fs / "r") / "data", own_directory(site.at / "t"))
    yield cluster
    cluster.stop()


def test_a_backup_is_checked_taken_listed_shown_restored_and_deleted(site: Site, restored: Cluster) -> None:
    checked = site.run("check", SERVER).ok()
    for line in (
        "snapshot instance exists: OK",
        "snapshot disks attached to instance: OK",
        "snapshot disks mounted on instance: OK",
        "snapshot privileges: OK",
        "archive_command: OK",
    ):
        assert line in checked
    assert "FAILED" not in checked
    for command in ("status", "show-servers", "replication-status"):
        assert "EXCEPTION" not in site.run(command, SERVER).ok()

    at_backup = site.cluster.sums()
    first = site.backup("--name", "nightly")
    assert [event for event in site.events(first) if event in _JOURNAL] == _JOURNAL
    assert [name for name in site.snapshots() if first.lower() in name] == site.snapshots() != []
    second = site.backup()
    assert site.ids() == [second, first]
    assert "nightly" in site.run("list-backups", SERVER).ok()

    shown = site.run("-f", "json", "show-backup", SERVER, first).json()[SERVER]
    base = shown["base_backup_information"]
    assert (shown["status"], base["backup_method"], base["timeline"]) == ("DONE", "snapshot-concurrent", 1)
    assert base["begin_wal"] <= base["end_wal"]
    assert site.run("check-backup", SERVER, first).code == 0

    site.cluster.sql("DELETE FROM kept WHERE g % 2 = 0")
    site.run("recover" if site.barman.old else "restore", SERVER, first, restored.data).ok()
    restored.start()
    assert restored.sums() == at_backup
    assert restored.sql("SELECT pg_is_in_recovery()") == "f"
    # Barman keeps a restored server away from the archive of the original.
    assert restored.sql("SHOW archive_command") == "false"
    assert restored.sql("SHOW restore_command") == ""
    restored.stop()

    assert site.run("delete", SERVER, first).code == 0
    assert site.ids() == [second]
    assert all(first.lower() not in name for name in site.snapshots()) and site.snapshots()
    assert site.events(first) == []
    site.run("delete", SERVER, second).ok()
    assert (site.ids(), site.snapshots()) == ([], [])


def test_a_restore_to_a_time_is_barmans(site: Site, restored: Cluster) -> None:
    backup = site.backup()
    site.cluster.sql("INSERT INTO kept SELECT g, md5(g::text) FROM generate_series(20001, 20100) AS g")
    wanted = site.cluster.sums()
    moment = site.cluster.sql("SELECT clock_timestamp()")
    site.cluster.sql("SELECT pg_sleep(0.1); DROP TABLE kept")
    site.run("switch-wal", "--force", "--archive", SERVER).ok()
    options = ("--target-time", moment, "--target-action", "promote", "--no-get-wal")
    site.run("recover", *options, SERVER, backup, restored.data).ok()
    restored.start()
    restored.sql("DO $$ BEGIN WHILE pg_is_in_recovery() LOOP PERFORM pg_sleep(0.05); END LOOP; END $$")
    assert restored.sums() == wanted
    assert restored.sql("SELECT timeline_id FROM pg_control_checkpoint()") != "0"


def test_a_tablespace_goes_where_barman_is_told(site: Site, restored: Cluster) -> None:
    place = own_directory(site.fs / "pg" / "ts")
    site.cluster.sql(f"CREATE TABLESPACE ts LOCATION '{place}'")
    site.cluster.sql("ALTER TABLE kept SET TABLESPACE ts")
    at_backup = site.cluster.sums()
    backup = site.backup()
    moved = restored.data.with_name("moved")
    site.run("recover", "--tablespace", f"ts:{moved}", SERVER, backup, restored.data).ok()
    restored.start()
    assert restored.sums() == at_backup
    assert restored.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'ts'") == str(moved)
    assert list(moved.glob("PG_17_*/*/*")) and (restored.data / "tablespace_map").exists() is False


def test_retention_of_barman_deletes_the_snapshots(site: Site) -> None:
    kept = [site.backup() for _ in range(3)][1:]
    config = site.config.read_text()
    site.config.write_text(config + "retention_policy = REDUNDANCY 2\n")
    site.run("cron").ok()
    assert sorted(site.ids()) == kept
    assert len(site.snapshots()) == 2


def test_a_backup_that_fails_is_failed_for_barman_and_nothing_for_the_engine(site: Site) -> None:
    good = site.backup()
    config = site.config.read_text()
    folder = site.fs / ".barman_snap"
    # After the checks, which would have found it.
    aside = folder.with_name("aside")
    script = site.at / "break.sh"
    script.write_text(f"#!/bin/sh\nmv {folder} {aside}\ntouch {folder}\n")
    script.chmod(0o755)
    site.config.write_text(config + f"pre_backup_script = {script}\n")
    ran = site.run("backup", SERVER, "--immediate-checkpoint")
    assert ran.code == 1 and "taking snapshots" in ran.out + ran.err, site.log()
    folder.unlink()
    aside.rename(folder)
    site.config.write_text(config)
    failed, before = site.ids()
    assert before == good
    shown = site.run("-f", "json", "show-backup", SERVER, failed).json()[SERVER]
    assert shown["status"] == "FAILED" and "taking snapshots" in shown["error"]
    assert len(site.snapshots()) == 1
    assert site.run("delete", SERVER, failed).code == 0
    assert site.ids() == [good] and len(site.snapshots()) == 1
    site.backup()


def test_a_deletion_that_fails_can_be_repeated(site: Site) -> None:
    backup = site.backup()
    folder = site.fs / ".barman_snap"
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("in the way")
    assert site.run("delete", SERVER, backup).code == 1
    assert site.ids() == [backup]
    folder.unlink()
    aside.rename(folder)
    site.run("delete", SERVER, backup).ok()
    assert (site.ids(), site.snapshots()) == ([], [])


def test_what_a_killed_backup_has_left_is_cleaned_up_by_the_next_one(site: Site) -> None:
    catalog = site.home / SERVER / "barman-snap"
    # Until there is a snapshot, and gone.
    script = (
        "import os, sys\nfrom barman_snap import Engine\n"
        "session = Engine(sys.argv[1], 'main').backup(sys.argv[2], wal_external=True, immediate_checkpoint=True)\n"
        "while session.next_step() is not None and session.phase != 'snapshotting': pass\n"
        "session.next_step(); os._exit(9)\n"
    )
    killed = run(site.barman.bin / "python", "-c", script, catalog, site.cluster.dsn)
    assert killed.code == 9, killed
    [left] = site.snapshots()
    assert "snapshot sessions: FAILED" in site.run("check", SERVER).out
    backup = site.backup()
    assert "snapshot sessions: OK" in site.run("check", SERVER).ok()
    assert left not in site.snapshots() and len(site.snapshots()) == 1
    assert site.ids() == [backup]


def test_a_backup_that_barman_has_missed_is_deleted_all_the_same(site: Site) -> None:
    backup = site.backup()
    home = site.home / SERVER
    [info] = [path for path in (home / "meta" / f"{backup}-backup.info", home / "base" / backup / "backup.info") if path.exists()]
    # As if it had been killed between the two.
    text = re.sub("^copy_stats=.*$", "copy_stats=None", info.read_text(), flags=re.MULTILINE)
    info.write_text(text.replace("status=DONE", "status=FAILED"))
    site.run("delete", SERVER, backup).ok()
    assert (site.ids(), site.snapshots(), site.events(backup)) == ([], [], [])


def test_without_the_adapter_barman_does_not_know_the_provider(site: Site) -> None:
    ran = site.stock("check", SERVER)
    assert ran.code == 1 and "configuration: FAILED" in ran.out
    assert site.run("check", SERVER, env={"BARMAN_SNAP": "off"}).code == 1


def test_a_setting_that_is_wrong_disables_the_server_and_no_other(site: Site) -> None:
    settings = site.at / "snap.conf"
    settings.write_text("[barman-snap]\nenable = on\n")
    other = site.at / "conf.d" / "other.conf"
    other.write_text("[other]\ndescription = with pg_basebackup\nconninfo = host=/nowhere\nbackup_method = postgres\narchiver = on\n")
    config = site.config.read_text()
    # Of a provider that is not ours alone, so that the file is asked.
    options = "snapshot_provider = aws\nsnapshot_instance = i\nsnapshot_disks = d\n"
    site.config.write_text(config.replace("snapshot_provider = local\n", options))
    ran = site.run("check", SERVER, env={"BARMAN_SNAP": str(settings)})
    assert ran.code == 1 and "configuration: FAILED" in ran.out, ran
    shown = site.run("list-servers", env={"BARMAN_SNAP": str(settings)})
    assert shown.code == 0 and "other" in shown.out and "Traceback" not in shown.out + shown.err, shown


@pytest.mark.usefixtures("alone")
def test_installed_it_works_by_barmans_own_script_where_a_file_says_so(site: Site) -> None:
    config = site.at / "snap.conf"
    config.write_text("[barman-snap]\nenabled = off\n[main]\nenabled = on\n")
    switch = {"BARMAN_SNAP": str(config)}
    site.barman.adapter("install", root=True).ok()
    try:
        assert site.stock("check", SERVER, env=switch).code == 0
        site.stock("backup", SERVER, "--immediate-checkpoint", "--wait", env=switch).ok()
        [backup] = site.ids()
        assert site.events(backup)[-1] == "published"
        # Without a configuration it is as if it were not there.
        assert site.stock("check", SERVER).code == 1
        site.stock("delete", SERVER, backup, env=switch).ok()
        assert site.snapshots() == []
    finally:
        site.barman.adapter("uninstall", root=True).ok()
    assert site.stock("check", SERVER, env=switch).code == 1
    assert not list(Path(site.barman.bin.parent).glob("lib/python*/site-packages/**/barman_snap_startup*"))


def test_a_server_in_a_cloud_needs_its_options(site: Site) -> None:
    config = site.config.read_text()
    site.config.write_text(config.replace("snapshot_provider = local", "snapshot_provider = aws\nsnapshot_instance = pg1"))
    ran = site.run("check", SERVER)
    assert ran.code == 1 and "snapshot_disks" in ran.out and "Traceback" not in ran.out + ran.err


def test_settings_that_are_wrong_stop_a_command(site: Site) -> None:
    ours = site.at / "snap.conf"
    ours.write_text("[barman-snap]\nenabled = on\ncatalog = s3://bucket/x\n")
    ran = site.run("backup", SERVER, env={"BARMAN_SNAP": str(ours)})
    assert ran.code == 1 and site.ids() == []
    ours.write_text("[barman-snap]\nenabeld = on\n")
    ran = site.run("backup", SERVER, env={"BARMAN_SNAP": str(ours)})
    assert ran.code != 0 and "enabeld" in ran.out + ran.err
