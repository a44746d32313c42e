"""What is asked of a running session by an update, from the question to its answer."""

from __future__ import annotations

from collections import deque

from temporalio import workflow

from moorage.contracts.activities import Answer, Extend, Resize, Restart

Wish = Restart | Resize | Extend


class Asked:
    """One wish. Whoever takes it answers it, whatever happens."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.answer: Answer | None = None


class Questions:
    """Those that wait, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: deque[Asked] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def ask(self, wish: Wish) -> Answer:
        """For the update's handler, which only waits: nothing interleaves with who acts."""
        asked = Asked(wish)
        self._waiting.append(asked)
        await workflow.wait_condition(lambda: asked.answer is not None)
        assert asked.answer is not None
        return asked.answer

    def next(self) -> Asked:
        return self._waiting.popleft()

    async def dismiss(self, answer: Answer) -> None:
        """All that wait get this answer, and their handlers have ended: nothing is open when a run of the life ends."""
        while self._waiting:
            self._waiting.popleft().answer = answer
        await workflow.wait_condition(workflow.all_handlers_finished)
