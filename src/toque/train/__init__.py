"""PART 4: training: the settings, fit, checkpoints, evaluation, the report.

Run        the frozen settings of a run
fit        train, or continue, a run
Result     how it ended
Stopped    what fit raises after a signal, with the state saved
evaluate   a finished run on its validation images, or on others
Evaluation what a model answers on images
load_model the model of a finished run
replay     one step of a run again, exactly
Replayed   what happened in it

For a loop of your own, from the same parts as fit (docs/guide/own_loop.md):

create_optimizer  one by name, with groups by rules
create_schedule   the learning rate as a function of images seen
create_step       from a batch to changed weights
CheckpointFolder  complete or absent, hashed, never unpickled

Its rooms, from the bottom up (import-linter holds the order):

settings/      the settings of a run; run.py puts them together
metrics/       what answers are worth
state/         what is saved, and how: complete or absent
optimisation/  optimisers, rates and freezing, as functions of images seen
tasks/         what differs between single label, several labels, numbers and masks
run_folder/    the folder of a run
steps/         from a batch to changed weights
logs/          what is told while training
course/        how a run goes on: early stopping, steps without a number
loop.py        fit
studies/       what is asked of a run besides: profile, replay, range test, plan
report/        the pages; distributed/, many ranks

Imported when first used: settings are read and written without waiting for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "Run": "run",
    "fit": "loop",
    "Result": "result",
    "Stopped": "stop",
    "evaluate": "restore",
    "Evaluation": "tasks",
    "load_model": "restore",
    "replay": "studies.replaying",
    "Replayed": "studies.replaying",
    "CheckpointFolder": "state.own",
    "create_optimizer": "optimisation.own",
    "create_schedule": "optimisation.own",
    "create_step": "steps.own",
}

__all__ = [
    "CheckpointFolder",
    "Evaluation",
    "Replayed",
    "Result",
    "Run",
    "Stopped",
    "create_optimizer",
    "create_schedule",
    "create_step",
    "evaluate",
    "fit",
    "load_model",
    "replay",
]

if TYPE_CHECKING:
    from toque.train.loop import fit
    from toque.train.optimisation.own import create_optimizer, create_schedule
    from toque.train.restore import evaluate, load_model
    from toque.train.result import Result
    from toque.train.run import Run
    from toque.train.state.own import CheckpointFolder
    from toque.train.steps.own import create_step
    from toque.train.stop import Stopped
    from toque.train.studies.replaying import Replayed, replay
    from toque.train.tasks import Evaluation


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
