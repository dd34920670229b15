"""A backup that is being taken."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import warnings
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, TypeVar, Union

from . import _native
from ._async import LoopListener, in_thread
from .events import Event, event_of
from .exceptions import Error
from .results import Backup

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["PendingBackup", "Session"]

_T = TypeVar("_T")


class _Teller:
    """Passes the events of a session on. It does not know the session, which would keep that alive."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[Event], object]] = []

    def __call__(self, data: dict[str, Any]) -> None:
        event = event_of(data)
        for listener in tuple(self.listeners):
            listener(event)


class _End:
    """How a session that runs on another thread has ended."""

    def __init__(self, error: Optional[BaseException]) -> None:
        self.error = error


class Session(_native.Session):
    """A backup whose id is claimed; `Engine.backup` makes it.

    Run it whole (`run`), step by step (`next_step`), or event by event (`events`). As a context manager it runs what is
    left at the end of the block; if the block raises, the backup is cancelled and undone::

        with engine.backup(dsn) as session:
            for event in session.events():
                print(event)
        print(session.backup)

    (Once its snapshots are safe nothing is undone: the session is left to `Engine.recover`, with a `RuntimeWarning`.)

    One thread at a time may drive it; everything else may be used from other threads meanwhile. One that nobody keeps and
    nobody has run to its end is undone, with a `RuntimeWarning`.
    """

    _teller: _Teller
    _background: Optional[threading.Thread] = None
    # Whether its driver knows already, by an error, that it is left to `Engine.recover`.
    _left = False

    def __new__(
        cls,
        engine: _native.Engine,
        connection: Optional[str],
        options: dict[str, Any],
        on_progress: Optional[Callable[[Event], object]] = None,
        cancel: Optional[_native.CancelToken] = None,
    ) -> Self:
        """For `Engine.backup`."""
        teller = _Teller()
        if on_progress is not None:
            teller.listeners.append(on_progress)
        self = super().__new__(cls, engine, connection, options, teller, cancel)
        self._teller = teller
        return self

    @property
    def backup(self) -> Optional[Backup]:
        """What it has come to, once it is published; ``None`` before."""
        return Backup.from_dict(self._summary()) if self.phase == "published" else None

    def run(self) -> Backup:
        """Runs it to its end.

        On an error, ``error.context["ended"]`` says what is left: ``undone`` (nothing), ``finishing`` (`Engine.recover`
        completes it) or ``stuck`` (somebody has to look).
        """
        return Backup.from_dict(self._drive(self._run))

    def _drive(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except Error:
            # An error in the middle is undone by going on; one past the dividing line is for `Engine.recover`.
            self._left = self.phase in ("stopped", "finishing")
            raise

    def next_step(self) -> Optional[str]:
        """Does the next step and returns its name; ``None`` when the session is over. After an error go on calling while
        the phase is ``undoing``: the next steps undo."""
        return self._drive(self._next_step)

    def events(self) -> Iterator[Event]:
        """Runs it to its end on another thread, and yields what happens. The error that ends it comes out here.

        Leaving the loop before its end cancels the session and waits until it is undone.
        """
        told: queue.SimpleQueue[Union[Event, _End]] = queue.SimpleQueue()
        thread = self._run_elsewhere(told.put)
        end: Optional[_End] = None
        try:
            while end is None:
                event = told.get()
                if isinstance(event, _End):
                    end = event
                else:
                    yield event
        finally:
            if end is None:
                self._leave(thread)
            self._teller.listeners.remove(told.put)
        thread.join()
        if end.error is not None:
            raise end.error

    def _run_elsewhere(self, tell: Callable[[Union[Event, _End]], object]) -> threading.Thread:
        def work() -> None:
            try:
                self.run()
            except BaseException as error:  # The one who iterates gets it.
                tell(_End(error))
            else:
                tell(_End(None))

        self._teller.listeners.append(tell)
        # Not a daemon: the interpreter waits at its end until the backup is complete or undone.
        thread = self._background = threading.Thread(target=work, name="barman-snap-events")
        thread.start()
        return thread

    def _leave(self, thread: threading.Thread) -> None:
        """Ends what runs on another thread, unless it has come to its end by itself."""
        if self._is_open:
            self.cancel()
        thread.join()

    def _end(self, failed: bool) -> None:
        """The end of a block."""
        background = self._background
        if background is not None and background.is_alive():
            self._leave(background) if failed else background.join()
        if not self._is_open:
            return
        if not failed:
            self.run()
            return
        self.cancel()
        try:
            self.run()
        except Error as left:
            # What the block has raised is what the caller wants to see, unless something was left behind.
            if self.phase != "undone":
                warnings.warn(f"backup {self.backup_id} was left {self.phase}: {left}", RuntimeWarning, stacklevel=3)

    async def run_async(self) -> Backup:
        """As `run`, awaited. A task that is cancelled cancels the session and waits until it is undone."""
        return await in_thread(self.run, self.cancel)

    async def next_step_async(self) -> Optional[str]:
        """As `next_step`, awaited. A task that is cancelled cancels the session."""
        return await in_thread(self.next_step, self.cancel)

    async def events_async(self) -> AsyncIterator[Event]:
        """As `events`, for ``async for``. Leave it early only within ``async with``, which waits for the end."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Union[Event, _End]] = asyncio.Queue()

        def tell(event: Union[Event, _End]) -> None:
            try:
                loop.call_soon_threadsafe(told.put_nowait, event)
            except RuntimeError:
                pass  # The loop was closed by one who did not wait.

        self._run_elsewhere(tell)
        end: Optional[_End] = None
        try:
            while end is None:
                event = await told.get()
                if isinstance(event, _End):
                    end = event
                else:
                    yield event
        finally:
            if end is None:
                self.cancel()
            self._teller.listeners.remove(tell)
        if end.error is not None:
            raise end.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> Literal[False]:
        self._end(failed=exc_type is not None)
        return False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> Literal[False]:
        await in_thread(lambda: self._end(failed=exc_type is not None), self.cancel)
        return False

    def __del__(self) -> None:
        if not self._is_open or self._left:
            return
        # Past the dividing line its snapshots are safe, and `Engine.recover` completes it.
        if self.phase not in ("stopped", "finishing"):
            self.cancel()
            with contextlib.suppress(Error):
                self._run()
        warnings.warn(
            f"backup {self.backup_id} was not run to its end; it is {self.phase}", RuntimeWarning, stacklevel=2
        )

    def __repr__(self) -> str:
        return f"Session(backup_id={self.backup_id!r}, phase={self.phase!r})"


class PendingBackup(Coroutine[Any, Any, Backup]):
    """What `Engine.backup_async` returns: await it for the whole backup, or enter it for its session::

        backup = await engine.backup_async(dsn)

        async with engine.backup_async(dsn) as session:
            async for event in session.events_async():
                print(event)
    """

    def __init__(
        self,
        begin: Callable[[Optional[Callable[[Event], object]], _native.CancelToken], Session],
        on_progress: Optional[Callable[[Event], object]],
    ) -> None:
        self._begin_with = begin
        self._on_progress = on_progress
        self._token = _native.CancelToken()
        self._session: Optional[Session] = None
        self._listener: Optional[LoopListener] = None
        self._whole = self._take()

    def _cancel(self) -> None:
        self._token.cancel()
        if self._session is not None:
            self._session.cancel()

    async def _begin(self) -> Session:
        if self._on_progress is not None:
            self._listener = LoopListener(self._on_progress, self._cancel)

        def begin() -> Session:
            session = self._begin_with(self._listener, self._token)
            if self._token.cancelled:
                # On this thread, rather than on that of the event loop.
                session._end(failed=True)
            return session

        self._session = await in_thread(begin, self._cancel, self._listener)
        return self._session

    async def _take(self) -> Backup:
        session = await self._begin()
        return await in_thread(session.run, session.cancel, self._listener)

    def __await__(self) -> Generator[Any, None, Backup]:
        return self._whole.__await__()

    def send(self, value: Any) -> Any:
        """For ``asyncio``, which takes it for a coroutine."""
        return self._whole.send(value)

    def throw(self, *error: Any) -> Any:
        """For ``asyncio``, which takes it for a coroutine."""
        return self._whole.throw(*error)

    def close(self) -> None:
        """For ``asyncio``, which takes it for a coroutine."""
        self._whole.close()

    async def __aenter__(self) -> Session:
        self._whole.close()
        return await self._begin()

    async def __aexit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> Literal[False]:
        assert self._session is not None
        return await self._session.__aexit__(exc_type, exc_value, traceback)
