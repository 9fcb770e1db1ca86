"""What the report of a finished run shows, gathered from the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toque import augment, durable, random
from toque.augment import Compose
from toque.data import Source, Splits
from toque.random import Key
from toque.train import build, first_signal, tasks
from toque.train import run as settings_of
from toque.train.logs import clock
from toque.train.logs.log import Row, read_rows
from toque.train.metrics import Answers, Doubt
from toque.train.metrics.doubts import in_words, kinds_of
from toque.train.metrics.shown import Table
from toque.train.next_steps import next_steps
from toque.train.run import Run
from toque.train.run_folder import doubted, environment, folder, kept, outcome
from toque.train.run_folder.doubted import Doubted
from toque.train.run_folder.folder import RunFolder, read_run
from toque.train.run_folder.outcome import Outcome
from toque.train.tasks import Evaluation, Task, classification
from toque.train.tasks.pictures import displayed

if TYPE_CHECKING:
    from toque.train.report import Doubtful, Picture, ReportData

_MISTAKES = 24
_SUSPECTS = 12
_RECOGNISED = 12
_AUGMENTED = 24


def conclude(
    asked: Run,
    run: Run,
    out: RunFolder,
    splits: Splits,
    evaluation: Evaluation,
    recorded: Mapping[str, Any],
    notes: Sequence[str],
    *,
    images_seen: int,
    seconds: float,
) -> Outcome:
    """Write result.json, answers.safetensors and report.html of a run; give what they say.

    `asked` are the settings before the unset ones were chosen.
    """
    scores = evaluation.scores(run.seed)
    intervals = {} if scores is not None else evaluation.intervals(run.seed)
    if scores is None:
        kept.write(out.path, run.task, evaluation, recorded["data_fingerprint"])
    ended = Outcome(
        evaluation.loss, evaluation.accuracy, images_seen, seconds, durable.sha256(out.weights),
        sorted(_changed(asked)), notes, scores, evaluation.metrics,
        evaluation.table(splits.classes) if scores is None else Table((), ()), intervals,
        evaluation.thresholds(),
    )  # fmt: skip
    outcome.write(out.path, ended, recorded["data_fingerprint"])
    # Of weights that are no more, if this run was continued.
    (out.path / doubted.FILE).unlink(missing_ok=True)
    write_report(out.path, splits)
    return ended


def write_report(path: Path, splits: Splits | None) -> Path:
    """Write report.html of a run folder from what it holds; return its path.

    Args:   splits: the images, for the pictures; None leaves them out
    Raises: FileNotFoundError: no run folder
    """
    # Imported here: Jinja and Pillow are needed by the report alone.
    from toque.train import report

    run, recorded = read_run(path)
    ended = outcome.read(path)
    rows = read_rows(path / folder.METRICS)
    classes = tuple(recorded["classes"])
    contents = _written(path, run, recorded, ended, rows)
    if ended is not None and ended.scores is not None:
        counts = None
        if splits is not None:
            counts = np.bincount(splits.train.labels, minlength=len(classes))
        steps = next_steps(run, rows, ended.scores, classes, counts)
        contents = replace(contents, next_steps=steps)
    found = kept.read(path, ended.metrics, ended.loss) if ended is not None else None
    evaluation = found[0] if found is not None else None
    if evaluation is not None:
        contents = replace(
            contents,
            answered=evaluation.charts(classes),
            reliability=evaluation.reliability(),
        )
    if splits is not None:
        answers = ended.scores.answers if ended is not None and ended.scores is not None else None
        learnt = doubted.read(path, recorded["data_fingerprint"])
        advice = clock.advice(_validations(rows), run, splits.train, environment.num_cores())
        shown = _shown(run, splits, answers, evaluation, learnt)
        contents = replace(contents, advice=advice, **shown)
    report.write(path / folder.REPORT, contents)
    return path / folder.REPORT


def _validations(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["split"] == "val"]


def _written(
    path: Path, run: Run, recorded: Mapping[str, Any], ended: Outcome | None, rows: Sequence[Row]
) -> ReportData:
    """What the run folder alone says."""
    from toque.train.report import ReportData

    kind, classes = tasks.kind(run.task), tuple(recorded["classes"])
    scores = ended.scores if ended is not None else None
    best = max(_validations(rows), key=kind.score_of, default={"epoch": None})
    told: dict[str, Any] = {"best_epoch": best["epoch"]}
    if ended is None:
        told["state"] = "unfinished"
        told["images_seen"] = rows[-1]["images_seen"] if rows else 0
    else:
        told |= {
            **ended.metrics,
            "loss": ended.loss,
            "seconds": ended.seconds,
            "images_seen": ended.images_seen,
            "weights": folder.WEIGHTS,
            "sha256": ended.sha256,
        }
    return ReportData(
        title=path.resolve().name,
        settings=run.as_dict(),
        changed=set(ended.given) if ended else (),
        metrics=rows,
        classes=classes,
        confusion=scores.answers.confusion(len(classes)) if scores is not None else None,
        scores=scores,
        intervals=ended.intervals if ended else {},
        measured=[one for one in kind.metrics if one.key != "accuracy"],
        table=ended.table if ended else None,
        signal=first_signal.read(path),
        environment={"seed": run.seed, **{k: v for k, v in recorded.items() if k != "classes"}},
        outcome=told,
        notes=ended.notes if ended else (),
    )


def _shown(
    run: Run,
    splits: Splits,
    answers: Answers | None,
    evaluation: Evaluation | None,
    learnt: Doubted | None,
) -> dict[str, Any]:
    """The parts that show images, or name them.

    Args: answers, evaluation: of the validation images, whichever the task keeps
          learnt: the training images in doubt, where they were looked for
    """
    from toque.train.report import Learnt

    task, kind = tasks.of(splits.train), tasks.kind(run.task)
    _, pipeline = build.pipelines(run, splits, task)
    parts: dict[str, Any] = {"augmented": _augmented(run, splits), "doubted": kind.doubted}
    if evaluation is not None:
        parts["worst"] = evaluation.worst_pictures(splits, pipeline)
    if answers is not None:
        parts |= _looked_at(task, splits.val, pipeline, answers)
    doubts = _doubts(answers, evaluation, splits.classes)
    parts["doubtful"] = _named(splits.val, doubts)
    parts["doubted_kinds"] = in_words(kinds_of(doubts))
    if evaluation is not None:
        parts["cannot_tell"] = evaluation.cannot_tell()
        if answers is None:
            parts["suspects"] = _pictures(task, splits.val, pipeline, doubts[:_SUSPECTS])
    if learnt is not None:
        parts["learnt"] = Learnt(
            kind.doubted_learnt, learnt.images, learnt.number,
            _named(splits.train, learnt.doubts),
            _pictures(task, splits.train, pipeline, learnt.doubts[:_MISTAKES]),
            in_words(learnt.kinds), learnt.cannot_tell,
        )  # fmt: skip
    return parts


def _changed(asked: Run) -> set[str]:
    """The settings that the caller gave and that are not the defaults."""
    default, given = (settings_of.flat(run.as_dict()) for run in (Run(), asked))
    return {key for key, value in given.items() if default.get(key) != value}


def _looked_at(
    task: Task, source: Source, pipeline: Compose | None, answers: Answers
) -> dict[str, Any]:
    """The parts that show validation images of classes: mistakes, suspects, the recognised."""
    surest = np.argsort(-answers.confidences, kind="stable")
    worst = surest[~answers.right[surest]][:_MISTAKES].tolist()
    above = set(answers.indices[worst].tolist())
    others = [one for one in classification.doubts(answers, source.classes)
              if one.index not in above]  # fmt: skip
    return {
        "mistakes": _answered(source, answers, worst),
        "suspects": _pictures(task, source, pipeline, others[:_SUSPECTS]),
        "correct": _answered(source, answers, surest[answers.right[surest]][:_RECOGNISED].tolist()),
    }


def _doubts(
    answers: Answers | None, evaluation: Evaluation | None, classes: Sequence[str]
) -> Sequence[Doubt]:
    """The validation images whose targets what was kept of a run contradicts."""
    if answers is not None:
        return classification.doubts(answers, classes)
    return evaluation.doubts(classes) if evaluation is not None else ()


def _named(source: Source, doubts: Sequence[Doubt]) -> list[Doubtful]:
    from toque.train.report import Doubtful

    return [Doubtful(source.name(one.index), one.label, one.answer) for one in doubts]


def _pictures(
    task: Task, source: Source, pipeline: Compose | None, doubts: Sequence[Doubt]
) -> list[Picture]:
    from toque.train.report import Picture

    return [
        Picture(
            image=task.labelled(source, one.index, pipeline),
            name=source.name(one.index),
            true=one.label,
            predicted=one.answer,
        )
        for one in doubts
    ]


def _answered(source: Source, answers: Answers, rows: Iterable[int]) -> list[Picture]:
    """Images with what was answered, by their rows in the answers."""
    from toque.train.report import Picture

    classes = source.classes
    pictures = []
    for row in map(int, rows):
        index, said = int(answers.indices[row]), int(answers.predictions[row])
        pictures.append(
            Picture(
                image=displayed(source.read(index)),
                name=source.name(index),
                true=classes[answers.targets[row]],
                predicted=classification.named(classes, said),
                confidence=float(answers.confidences[row]),
            )
        )
    return pictures


def _augmented(run: Run, splits: Splits) -> list[Picture]:
    """The first images of the training, as the model saw them."""
    from toque.train.report import Picture, denormalise

    pipeline, _ = build.pipelines(run, splits, tasks.of(splits.train))
    if pipeline is None:
        return []
    size = len(splits.train)
    indices = random.permutation(run.seed, 0, size, 0, min(_AUGMENTED, size))
    images = [splits.train.read(int(index)) for index in indices]
    batch = pipeline(images, key=Key(run.seed, 0, indices))
    mean, std = [0.0], [1.0]
    for transform in pipeline.transforms:
        if isinstance(transform, augment.Normalize):
            mean, std = list(transform.mean), list(transform.std)
    pictures = denormalise(batch, mean, std)
    return [
        Picture(
            image=picture,
            name=splits.train.name(int(index)),
            caption=tasks.in_words(splits.train, int(index)),
        )
        for picture, index in zip(pictures, indices, strict=True)
    ]
