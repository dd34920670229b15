"""Asynchronous twins of what blocks.

The engine waits without the GIL on a thread made for the call, so that the event loop goes on. A task that is cancelled
cancels the work, waits until it has cleaned up, and only then ends; cancelled once more, it does not wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, cast

from ._native import CancelToken

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from typing_extensions import Concatenate, ParamSpec

    from .events import Event

    _P = ParamSpec("_P")
_S = TypeVar("_S")
_T = TypeVar("_T")


class LoopListener:
    """Calls ``on_progress`` on the event loop rather than on the thread that does the work."""

    def __init__(self, on_progress: Callable[[Event], object], cancel: Callable[[], object]) -> None:
        self._on_progress = on_progress
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self.raised: Optional[BaseException] = None

    def __call__(self, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._tell, event)

    def _tell(self, event: Event) -> None:
        if self.raised is not None:
            return
        try:
            self._on_progress(event)
        except BaseException as error:  # It comes out of the call that is awaited, whatever it is.
            self.raised = error
            self._cancel()


async def in_thread(
    call: Callable[[], _T], cancel: Callable[[], object], listener: Optional[LoopListener] = None
) -> _T:
    """The result of ``call``, which runs on a thread of its own. ``cancel`` makes it end soon."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(result: Optional[_T], error: Optional[BaseException]) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(cast(_T, result))
        else:
            future.set_exception(error)

    def work() -> None:
        result: Optional[_T] = None
        error: Optional[BaseException] = None
        try:
            result = context.run(call)
        except BaseException as raised:  # The one who awaits gets it.
            error = raised
        try:
            loop.call_soon_threadsafe(deliver, result, error)
        except RuntimeError:
            pass  # The loop was closed by one who did not wait.

    # Not a daemon: the interpreter waits at its end until everything is cleaned up.
    threading.Thread(target=work, name="barman-snap-async").start()
    try:
        result = await asyncio.shield(future)
    except asyncio.CancelledError:
        cancel()
        if not future.done():
            await asyncio.wait({future})
        future.exception()  # Looked at, so that asyncio does not complain.
        raise
    except BaseException as error:
        if listener is not None and listener.raised is not None:
            raise listener.raised from error
        raise
    if listener is not None and listener.raised is not None:
        raise listener.raised
    return result


def twin(
    method: Callable[Concatenate[_S, _P], _T],
) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]]:
    """The asynchronous twin of a method: the same arguments, the same result."""
    takes_cancel = "cancel" in inspect.signature(method).parameters

    @functools.wraps(method)
    async def run(self: _S, /, *args: Any, **kwargs: Any) -> _T:
        token = kwargs.get("cancel") or CancelToken()
        if takes_cancel:
            kwargs["cancel"] = token
        listener = None
        if kwargs.get("on_progress") is not None:
            listener = kwargs["on_progress"] = LoopListener(kwargs["on_progress"], token.cancel)
        return await in_thread(functools.partial(method, self, *args, **kwargs), token.cancel, listener)

    run.__name__ = f"{method.__name__}_async"
    run.__qualname__ = f"{method.__qualname__}_async"
    run.__doc__ = f"As `{method.__name__}`, awaited. A task that is cancelled cancels it and waits until it has cleaned up."
    return cast("Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]]", run)
