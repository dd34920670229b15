"""``backup.info`` for a Barman that is older than one of its fields.

The engine writes every field of Barman 3.19, unset ones as well. An older Barman takes a field that it does not know for a
damaged file. An unset one says nothing, so it is passed over; one that is set is left to be refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Optional

__all__ = ["load"]

# Since Barman 3.14.
_YOUNGER = (b"encryption=None",)


def load(stock: Callable[..., Any]) -> Callable[..., Any]:
    """In place of the method that reads such a file."""

    def read(self: Any, filename: Optional[str] = None, file_object: Optional[Any] = None) -> Any:
        if file_object is not None:
            # By lines, as Barman does: not everything that it reads from has a whole `read`.
            file_object = io.BytesIO(b"".join(line for line in file_object if line.strip() not in _YOUNGER))
        return stock(self, filename=filename, file_object=file_object)

    return read
