"""Copied into the environment of a Barman by ``python -m barman_snap.barman install``, beside a ``.pth`` file that imports it.

It runs whenever Python starts there, so it does next to nothing: only where a configuration is, and then only when Barman is
imported, the adapter is loaded. It stands for itself and imports the standard library alone.
"""

import os
import sys

FILE = "/etc/barman-snap.conf"


class Watch:
    """Sees the first import of Barman, and makes room for the adapter's own hook."""

    @staticmethod
    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name == "barman":
            sys.meta_path.remove(Watch)
            try:
                from barman_snap.barman import hook
            except ImportError as error:
                # Gone without `uninstall`. WAL goes on being archived, and a local server is refused by Barman itself.
                print(f"barman-snap: {error}; remove {__file__} and the .pth file beside it", file=sys.stderr)
            else:
                hook.install()
        return None


def watch() -> None:
    word = os.environ.get("BARMAN_SNAP", "").strip().lower()
    if word not in ("off", "no", "false", "0") and (word or os.path.exists(FILE)):
        sys.meta_path.insert(0, Watch)


watch()
