"""Micro-batches: questions that are in flight at the same time are answered together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Ask = tuple[Any, asyncio.Future]


class Batcher:
    """Gathers questions, and has them answered in one other thread.

    A batch is what has come while the one before was answered, and within `window` seconds after
    the first question of it, up to `size` questions.
    """

    def __init__(self, answers: Callable[[list], list], size: int = 64, window: float = 0.002):
        self.answers, self.size, self.window = answers, size, window
        self.queue: asyncio.Queue[Ask] = asyncio.Queue()
        self.thread = ThreadPoolExecutor(1)

    async def ask(self, question: Any) -> Any:
        """The answer to a question. Raises what answering it raises."""
        answer = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((question, answer))
        return await answer

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            batch = await self._batch()
            await self._answer(batch)

    async def _batch(self) -> list[Ask]:
        batch = [await self.queue.get()]
        if self.window and self.size > 1 and self.queue.qsize() + 1 < self.size:
            await asyncio.sleep(self.window)
        while len(batch) < self.size and not self.queue.empty():
            batch.append(self.queue.get_nowait())
        return [ask for ask in batch if not ask[1].done()]  # done: whoever asked has left

    async def _answer(self, batch: list[Ask]) -> None:
        loop = asyncio.get_running_loop()
        questions = [question for question, _ in batch]
        try:
            answers = await loop.run_in_executor(self.thread, self.answers, questions)
        except Exception as error:
            if len(batch) == 1:
                _set(batch[0][1], error)
                return
            for ask in batch:  # so that one question takes none of the others with it
                await self._answer([ask])
            return
        for (_, answer), value in zip(batch, answers, strict=True):
            _set(answer, value)


def _set(answer: asyncio.Future, value: Any) -> None:
    if answer.done():
        return
    if isinstance(value, Exception):
        answer.set_exception(value)
    else:
        answer.set_result(value)
