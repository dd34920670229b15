"""Which Barman the adapter takes, what it replaces, and what it leaves behind."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bed import VERSIONS, Barman, alone as alone, place, run

from barman_snap.barman import settings, startup, table

pytestmark = pytest.mark.usefixtures("alone")

_REPLACED = """
import sys
from barman_snap.barman import hook, table
hook.install()
import barman.output, barman.backup, barman.infofile
import barman.clients.cloud_backup, barman.clients.cloud_backup_delete, barman.clients.cloud_restore
for row in table.ROWS:
    found = sys.modules[row.module]
    for part in row.name.split("."):
        found = getattr(found, part)
    print(row.module + "." + row.name, found.__module__)
"""


@pytest.fixture(params=VERSIONS)
def barman(request: pytest.FixtureRequest) -> Barman:
    return Barman.of(request.param)


@pytest.fixture
def other_version() -> Iterator[Path]:
    """A folder that makes Python believe that another Barman is installed. It has the metadata of one, and its commands."""
    barman = Barman.of(VERSIONS[0])
    [known] = barman.bin.parent.glob("lib/python*/site-packages/barman-*.dist-info")
    with place() as at:
        other = at / "barman-3.20.0.dist-info"
        shutil.copytree(known, other)
        metadata = (other / "METADATA").read_text()
        (other / "METADATA").write_text(metadata.replace(f"\nVersion: {VERSIONS[0]}\n", "\nVersion: 3.20.0\n"))
        yield at


def _site(barman: Barman) -> list[str]:
    return sorted(str(path) for path in barman.bin.parent.glob("lib/python*/site-packages/*"))


def test_what_the_table_names_is_replaced_and_nothing_else_is_named(barman: Barman) -> None:
    replaced = dict(line.split() for line in run(barman.bin / "python", "-c", _REPLACED).ok().splitlines())
    assert set(replaced) == {f"{row.module}.{row.name}" for row in table.ROWS}
    for row in table.ROWS:
        ours = replaced[f"{row.module}.{row.name}"].startswith("barman_snap.barman.")
        assert ours == (barman.version in row.versions), row


def test_the_table_can_be_read(barman: Barman) -> None:
    text = barman.adapter("table").ok()
    assert "3.12.1" in text and "3.19.1" in text
    assert all(f"{row.module}.{row.name}" in text and row.why in text for row in table.ROWS)


def test_the_manual_has_the_same_table() -> None:
    manual = (Path(__file__).parents[3] / "docs" / "barman-adapter.md").read_text()
    rows = dict(re.findall(r"^\| `(barman\.[\w.]+)` \| (.*) \|$", manual, re.MULTILINE))
    assert list(rows) == [f"{row.module}.{row.name}" for row in table.ROWS]
    for row in table.ROWS:
        only = "" if row.versions == table.VERSIONS else f"{', '.join(row.versions)} only: "
        assert rows[f"{row.module}.{row.name}"].replace("`", "") == only + row.why
    assert all(version in manual for version in table.VERSIONS)


def test_an_unknown_version_is_refused_in_one_line(other_version: Path) -> None:
    barman = Barman.of(VERSIONS[0])
    env = {"PYTHONPATH": str(other_version)}
    for words in (("--", "barman", "list-servers"), ("--", "barman-cloud-backup", "--help"), ("install",)):
        ran = barman.adapter(*words, env=env)
        assert ran.code == 4 and ran.out == ""
        assert ran.err.count("\n") == 1 and "3.20.0" in ran.err and "3.19.1" in ran.err
    # Also where it came to be behind our back; but the commands for WAL have nothing to do with us.
    barman.adapter("install", root=True).ok()
    try:
        env["BARMAN_SNAP"] = "on"
        for command in ("barman-cloud-backup", "barman-cloud-backup-delete", "barman-cloud-restore", "barman"):
            ran = barman.stock(command, "--help", env=env)
            assert ran.code == 4 and ran.err.count("\n") == 1 and "3.20.0" in ran.err, (command, ran)
        for command in ("barman-cloud-wal-archive", "barman-cloud-wal-restore", "barman-cloud-backup-list"):
            assert barman.stock(command, "--help", env=env).code == 0, command
        env["BARMAN_SNAP"] = "off"
        assert barman.stock("barman", "--help", env=env).code == 0
    finally:
        barman.adapter("uninstall", root=True).ok()


def test_a_barman_that_was_changed_is_refused() -> None:
    row = table.ROWS[0]
    module = type(table)("barman.clients.cloud_backup")
    assert table.faults(module, [row]) == [f"{row.module}.{row.name} does not exist"]
    setattr(module, row.name, lambda other: None)
    assert table.faults(module, [row]) == [f"{row.module}.{row.name} has the parameters other"]
    setattr(module, row.name, lambda config, more=None: None)
    assert table.faults(module, [row]) == []


def test_it_is_installed_and_uninstalled_without_a_trace(barman: Barman) -> None:
    before = _site(barman)
    assert barman.adapter("status").code == 1
    installed = barman.adapter("install", root=True)
    try:
        assert barman.adapter("status").code == 0
        new = [line.removeprefix("wrote ") for line in installed.ok().splitlines() if line.startswith("wrote ")]
        assert sorted(set(_site(barman)) - set(before)) == sorted(new)
        # Half of it is not it.
        module = next(path for path in new if path.endswith(".py"))
        Path(module).write_text("")
        assert barman.adapter("status").code == 1
    finally:
        removed = barman.adapter("uninstall", root=True).ok()
    assert all(path in removed for path in new)
    assert _site(barman) == before
    assert "not installed" in barman.adapter("uninstall", root=True).ok()


def test_a_package_that_was_removed_first_does_not_stop_the_commands_for_wal(barman: Barman) -> None:
    barman.adapter("install", root=True).ok()
    try:
        with place() as at:
            (at / "barman_snap").mkdir()
            (at / "barman_snap" / "__init__.py").write_text("raise ImportError('it is gone')\n")
            env = {"PYTHONPATH": str(at), "BARMAN_SNAP": "on"}
            ran = barman.stock("barman-cloud-wal-archive", "--version", env=env)
            assert ran.code == 0 and "it is gone" in ran.err and ran.err.count("\n") == 1
    finally:
        barman.adapter("uninstall", root=True).ok()


def test_no_command_and_a_wrong_command_are_refused(barman: Barman) -> None:
    assert barman.adapter().code == 3
    ran = barman.adapter("--", "pg_dump")
    assert ran.code == 3 and "no command of Barman" in ran.err


def test_settings_are_those_of_the_server_and_then_those_of_all(tmp_path: Path) -> None:
    file = tmp_path / "snap.conf"
    file.write_text(
        "[barman-snap]\nenabled = on\ncut_timeout = 90\nazure.endpoint = http://x\naws.lock_duration = 3\n"
        "[quiet]\nenabled = off\nsnapshot_directory = /srv/snap\n"
    )
    environ = {settings.VARIABLE: str(file)}
    common = settings.load("main", environ)
    assert common.enabled
    assert common.engine == {"cut_timeout": 90.0, "azure": {"endpoint": "http://x"}, "aws": {"lock_duration": 3}}
    quiet = settings.load("quiet", environ)
    assert not quiet.enabled and quiet.engine["snapshot_directory"] == "/srv/snap"
    assert settings.load("main", {settings.VARIABLE: "on"}) == settings.Settings(enabled=True)
    assert settings.is_off({settings.VARIABLE: "OFF"}) and not settings.is_off({})
    # The module that is installed stands for itself.
    assert startup.FILE == str(settings.DEFAULT_FILE)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[barman-snap]\nenable = on\n", "enable"),
        ("[barman-snap]\nenabled = maybe\n", "maybe"),
        ("[barman-snap]\ncut_timeout = soon\n", "soon"),
        ("enabled = on\n", "section"),
    ],
)
def test_a_setting_that_is_not_understood_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "snap.conf"
    file.write_text(text)
    with pytest.raises(settings.SettingsError, match=told):
        settings.load("main", {settings.VARIABLE: str(file)})
    with pytest.raises(settings.SettingsError):
        settings.load("main", {settings.VARIABLE: str(tmp_path / "missing")})
    with pytest.raises(settings.SettingsError, match="absolute"):
        settings.load("main", {settings.VARIABLE: "yess"})
