"""Existing Barman installations on the engine of barman_snap: the adapter.

``python -m barman_snap.barman -- barman-cloud-backup …`` runs a stock command of Barman in this process, with the engine
taking, deleting and restoring the snapshots. ``python -m barman_snap.barman install`` switches that on for all commands of a
Python environment, as far as a configuration says so (`settings`).

Barman stays as it is: `table` names what is replaced in its modules when they are imported (`hook`), and why. A version of
Barman that is not in the table is refused. What this is not: a part of `barman_snap` that anything else of it imports.
Barman is GPL-3; this package imports it at run time and contains nothing of it. ``docs/barman-adapter.md`` is the manual.
"""

from __future__ import annotations

__all__: list[str] = []
