"""The engine for a command of Barman: its options from what Barman was told, and its errors in Barman's words.

Two catalogs have to be told apart. The ``barman-cloud-*`` commands have one in an object store whose format the engine
shares, so the engine is opened at the very same URL. A Barman server has a directory with a layout of its own; the engine
keeps a catalog of its own in there (`server_catalog`), under the same backup ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Optional

from barman_snap import Engine, enable_logging

from .settings import Settings, SettingsError, load

__all__ = [
    "DIRECTORY",
    "command_provider",
    "for_command",
    "for_server",
    "has_backup",
    "is_on",
    "is_ours",
    "server_catalog",
    "server_provider",
]

DIRECTORY = "barman-snap"
"""The catalog of the engine in the ``backup_directory`` of a server."""

_PROVIDERS = {"aws-s3": "aws", "azure-blob-storage": "azure", "google-cloud-storage": "gcp"}
# The engine does not encrypt what it puts into the catalog; the bucket does, if it is told to.
_REFUSED = ("encryption", "sse_kms_key_id", "kms_key_name", "encryption_scope", "check_object_lock")
_LOCKS = ("lock_mode", "lock_duration", "lock_cool_off_period", "lock_expiration_date")


def is_ours(backup_info: Any) -> bool:
    """Whether the engine has made this backup: its record stands in ``copy_stats``."""
    stats = getattr(backup_info, "copy_stats", None)
    return isinstance(stats, Mapping) and isinstance(stats.get("barman_snap"), Mapping)


def is_on(server: str) -> bool:
    """Whether the engine takes the snapshots of this server."""
    return load(server).enabled


def for_command(config: Any, backup_info: Any = None) -> Engine:
    """For a ``barman-cloud-*`` command, whose options are ``config``. `ValueError` for one that would be ignored.

    What they do not say of the cloud is taken from a backup, if it is about one: ``backup-delete`` cannot be told at all.
    """
    for name in _REFUSED:
        if getattr(config, name, None):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"the engine has no {option}: give the bucket a default, or set BARMAN_SNAP=off")
    enable_logging()
    settings = load(config.server_name)
    url = str(getattr(config, "destination_url", None) or config.source_url)
    provider = _recorded(backup_info) or command_provider(config)
    timeout = getattr(config, "read_timeout", None)
    given = {
        "endpoint_url": config.endpoint_url,
        "aws_profile": config.aws_profile,
        "read_timeout": None if timeout is None else timedelta(seconds=timeout),
        "addressing_style": getattr(config, "addressing_style", None) or "auto",
        "azure_credential": config.azure_credential,
    }
    clouds = _clouds(config)
    if provider in clouds:
        clouds[provider] = {**_told_by(backup_info), **clouds[provider]}
    return _open(url, config.server_name, provider, {**given, **_patience(config, provider)}, clouds, settings)


def command_provider(config: Any) -> str:
    """What takes the snapshots of ``barman-cloud-backup``."""
    return load(config.server_name).snapshot_provider or _PROVIDERS[config.cloud_provider]


def server_provider(server_config: Any) -> str:
    """What takes the snapshots of a server of Barman; empty if nothing says."""
    return str(load(server_config.name).snapshot_provider or server_config.snapshot_provider or "")


def has_backup(server_config: Any, backup_id: str) -> bool:
    """Whether the engine has a backup of a server of Barman, which may have missed that."""
    return Path(server_catalog(server_config), server_config.name, "base", backup_id).exists()


def for_server(server_config: Any, backup_info: Any = None) -> Engine:
    """For a server of Barman, whose configuration is ``server_config``; and for a backup of it, if it is about one."""
    enable_logging()
    settings = load(server_config.name)
    provider = _recorded(backup_info) or server_provider(server_config) or "local"
    common = {"azure_credential": server_config.azure_credential, **_patience(server_config, provider)}
    clouds = _clouds(server_config)
    if provider in clouds:
        clouds[provider] = {**_told_by(backup_info), **clouds[provider]}
    return _open(server_catalog(server_config), server_config.name, provider, common, clouds, settings)


def server_catalog(server_config: Any) -> str:
    """The directory in which the engine keeps its catalog for a server of Barman."""
    catalog = load(server_config.name).catalog
    if catalog is not None and not catalog.startswith("/"):
        raise SettingsError(f"catalog is {catalog!r}: for a server of Barman it has to be an absolute path")
    return catalog or f"{server_config.backup_directory}/{DIRECTORY}"


def _open(
    url: str,
    server: str,
    provider: str,
    common: dict[str, Any],
    clouds: dict[str, dict[str, Any]],
    settings: Settings,
) -> Engine:
    options = {name: value for name, value in common.items() if value is not None}
    options.update(clouds)
    for name, value in settings.engine.items():
        options[name] = {**options[name], **value} if name in clouds else value
    return Engine(url, server, snapshot_provider=provider, **options)


def _clouds(config: Any) -> dict[str, dict[str, Any]]:
    """The options of the clouds, which have one name in the commands and in the configuration of a server."""

    def some(**values: Any) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    def get(name: str) -> Any:
        return getattr(config, name, None)

    locks = {name: get(f"aws_snapshot_{name}") for name in _LOCKS}
    return {
        "aws": some(profile=get("aws_profile"), region=get("aws_region"), **locks),
        "gcp": some(project=get("gcp_project"), zone=get("gcp_zone")),
        "azure": some(subscription_id=get("azure_subscription_id"), resource_group=get("azure_resource_group")),
    }


def _recorded(backup_info: Any) -> Optional[str]:
    """What has taken the snapshots of a backup of ours."""
    return str(backup_info.copy_stats["barman_snap"]["provider"]) if is_ours(backup_info) else None


def _told_by(backup_info: Any) -> dict[str, Any]:
    """What a backup says of its cloud, in the words of the engine's options."""
    info = getattr(backup_info, "snapshots_info", None)
    told = info.to_dict().get("provider_info", {}) if info is not None else {}
    words = ("region", "project", "subscription_id", "resource_group")
    return {name: told[name] for name in words if told.get(name) is not None}


def _patience(config: Any, provider: str) -> dict[str, Any]:
    """What the stock tools call the time to wait for complete snapshots; they have it for one cloud only."""
    seconds = getattr(config, "aws_await_snapshots_timeout", None)
    return {"ready_timeout": seconds} if provider == "aws" and seconds is not None else {}
