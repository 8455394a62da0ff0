"""Work that may go on in the background, and is done at once where no thread is to be had."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

Value = TypeVar("Value")


class Background:
    """Threads, one for each function, all of which have ended when the block has."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.join()

    def submit(self, function: Callable[..., Value], /, *arguments: Any, **options: Any) -> Future[Value]:
        """Begin with a function, or where the system has no thread left do all of it now."""
        future: Future[Value] = Future()

        def work() -> None:
            try:
                future.set_result(function(*arguments, **options))
            except BaseException as error:
                future.set_exception(error)

        thread = threading.Thread(target=work, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            work()
        else:
            self._threads.append(thread)
        return future
