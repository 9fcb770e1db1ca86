"""What may be asked of a model in the query of a request, task by task; anything else is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field

from toque.deploy.details import CLASSIFICATION, MULTILABEL
from toque.deploy.serving.replies import Reply


class Question(BaseModel):
    """A query that is empty: of numbers and masks there is nothing to choose.

    A name that is not known is refused: `?treshold=0.9` would be answered with another threshold.
    """

    model_config = ConfigDict(extra="forbid")

    @property
    def most(self) -> int | None:
        """How many classes; all if unset."""
        return None

    @property
    def least(self) -> float | None:
        """From which probability on any label is named; each has its own if unset."""
        return None


class OfClasses(Question):
    """How many classes are told."""

    top: int | None = Field(None, ge=1, le=100_000, description="how many classes; all if unset")

    @property
    def most(self) -> int | None:
        return self.top


class OfLabels(OfClasses):
    """Which labels count as there, besides."""

    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="the labels of this probability or more; by their own thresholds if unset",
    )

    @property
    def least(self) -> float | None:
        return self.threshold


Answering = Callable[[Request, Question], Awaitable[Any]]


def endpoint(task: str, answering: Answering) -> Callable[..., Awaitable[Any]]:
    """A function for a route, whose query is that of the task.

    Three functions, because FastAPI reads what a query may hold off the annotations.
    """
    if task == CLASSIFICATION:

        async def of_classes(request: Request, query: Annotated[OfClasses, Query()]) -> Reply:
            return await answering(request, query)  # type: ignore[no-any-return]

        return of_classes
    if task == MULTILABEL:

        async def of_labels(request: Request, query: Annotated[OfLabels, Query()]) -> Reply:
            return await answering(request, query)  # type: ignore[no-any-return]

        return of_labels

    async def of_others(request: Request, query: Annotated[Question, Query()]) -> Reply:
        return await answering(request, query)  # type: ignore[no-any-return]

    return of_others
