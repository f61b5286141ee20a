"""The exam: a learner's model against a baseline on a hospital that nobody chose anything on, and a board of all teams.

The more often a class looks at the exam's hospital, the less its best score means. So every hand-in is kept, the board
counts them, and says how far luck alone would have brought the best of so many.
"""

from __future__ import annotations

import html
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from scipy import integrate, stats

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.config import STAGES
from dualtask_lite.engine.judging.evaluation import Evaluation, evaluate, plain
from dualtask_lite.engine.judging.statistics import bootstrap_interval, paired_differences
from dualtask_lite.engine.predict import Prediction, in_cascade_order, predict_scan
from dualtask_lite.engine.run import MANIFEST, Model, load_models, read_json, write_json
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.errors import DualTaskError
from dualtask_lite.rows import number, pairs

LONGEST_NAME = 60  # characters of a team's name, so that a line of the board holds it
#: What a row of the board must hold; a file without them was not written by ``hand_in``.
COLUMNS = ("team", "time", "exam", "target", "cases", "dice", "baseline_dice", "difference", "low", "high", "error")


@dataclass(frozen=True, eq=False)
class HandIn:
    """What the exam found; a notebook shows it as a table and a sentence.

    Attributes:
        row: one row of the board: team, mean Dice of both, difference with its interval, standard error, cases.
        results: one dict a case: ``case``, ``dice``, ``baseline_dice``, ``difference`` and ``volume_ml_truth``.
        worst: the case with the lowest Dice, and of several that were missed the largest; with its label.
        prediction: of that case; ``volume3d(worst, prediction.mask, prediction.distance_mm)`` shows both in 3D.
        board: the file of this row; None when no board was given.
    """

    row: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    worst: Scan = field(repr=False)
    prediction: Prediction = field(repr=False)
    board: Path | None

    def __str__(self) -> str:
        row, last = self.row, self.results[0]
        low, high = row["low"], row["high"]
        verdict = "above" if low > 0 else "below" if high < 0 else "not distinguishable from"
        return (
            f"{row['team']}: {row['target']} Dice {row['dice']:.3f} on {row['cases']} cases of the exam, baseline "
            f"{row['baseline_dice']:.3f}. The difference is {row['difference']:+.3f} (95 % interval {low:+.3f} to "
            f"{high:+.3f}): {verdict} the baseline. Worst case: {last['case']}, Dice {last['dice']:.2f}, "
            f"{last['volume_ml_truth']:.1f} ml."
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        names = ("dice", "baseline_dice", "difference", "low", "high")
        head = "".join(f'<th scope="col">{name.replace("_", " ")}</th>' for name in names)
        body = "".join(f"<td>{self.row[name]:.3f}</td>" for name in names)
        table = f"<table><caption>Exam</caption><thead><tr>{head}</tr></thead><tbody><tr>{body}</tr></tbody></table>"
        return {"text/html": f"{table}<p>{html.escape(str(self))}</p>", "text/plain": str(self)}


def hand_in(
    run: str | Path,
    name: str = "team",
    *,
    board: str | Path | None = None,
    baseline: str | Path = "reference",
    cases: str | Path = "exam",
    device: str = "auto",
    progress: bool = True,
) -> HandIn:
    """Test a run on the exam's hospital, compare it with the baseline case by case, and put it on the board.

    Args:
        run: a run folder, or the folder of a cascade. Where it lacks the stages before its first, those of the baseline
            say where to look.
        name: of the team.
        board: a folder that all teams share; without it nothing is kept.
        baseline: models that predict the same target, such as ``reference``.
        cases: the exam's: a known source or a folder (``dualtask data make exam``).
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: show a bar on a terminal or in a notebook.

    Raises:
        DualTaskError: when the name is unfit, a model saw one of the cases, a case cannot be evaluated, the baseline
            predicts something else, or the board holds hand-ins of another exam.
    """
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME:
        raise DualTaskError(f"{name!r} is no name for the board", f"give 1 to {LONGEST_NAME} characters")
    on = pick_device(device)
    reference = in_cascade_order(load_models(baseline, on))
    own = in_cascade_order(load_models(run, on))
    target = STAGES[own[-1].settings.stage].target
    if target != STAGES[reference[-1].settings.stage].target:
        raise DualTaskError(
            f"the run predicts the {target}, the baseline the {STAGES[reference[-1].settings.stage].target}",
            "hand in a run of the baseline's last stage, or name another baseline",
        )
    labelled = [case for case in find_cases(cases) if case.label is not None]
    exam = _exam_of(labelled)
    if board is not None:
        _check_same_exam(Path(board), exam, target)
    models = _with_earlier_stages(own, reference)
    found = _dice(evaluate(models, labelled, progress=progress), target)
    expected = _dice(evaluate(reference, labelled, progress=progress), target)
    results = _paired(found, expected)
    row = {
        "team": name,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "exam": exam,
        "target": target,
        **_compared(found, expected),
        "trained_seconds": _seconds(own),
    }
    file = None if board is None else add_to_board(board, row)
    worst = next(case for case in labelled if case.id == results[0]["case"]).load()
    return HandIn(row, results, worst, predict_scan(models, worst), file)


def add_to_board(folder: str | Path, row: Mapping[str, Any]) -> Path:
    """Write one hand-in as a file of its own, whole or not at all, so that none is lost when many hand in at once.

    Args:
        folder: of the board; it is made.
        row: what ``COLUMNS`` name, and more.

    Raises:
        DualTaskError: when it cannot be written.
    """
    team = re.sub(r"[^a-z0-9]+", "-", str(row["team"]).lower()).strip("-") or "team"
    file = Path(folder) / f"{team}-{secrets.token_hex(8)}.json"  # nobody else's name, on whatever machine
    write_json(file, plain(row))
    return file


def read_board(folder: str | Path) -> list[dict[str, Any]]:
    """All hand-ins of a board, the oldest first.

    Raises:
        DualTaskError: when the folder is not there, a file in it is no hand-in, or they are of more than one exam.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DualTaskError(f"{folder}: there is no such folder", "name the folder that the teams hand in to")
    rows = []
    for file in sorted(folder.glob("*.json")):
        if file.name.startswith("."):  # being written
            continue
        row = read_json(file)
        if not isinstance(row, dict) or not set(COLUMNS) <= set(row):
            raise DualTaskError(f"{file}: is no hand-in of the exam", "move it out of the folder of the board")
        rows.append(row)
    if len({(row["exam"], row["target"]) for row in rows}) > 1:
        raise DualTaskError(f"{folder}: holds hand-ins of more than one exam", "keep a folder for each exam")
    return sorted(rows, key=lambda row: str(row["time"]))


def standings(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The best hand-in of each team, the highest score first.

    Args:
        rows: of ``read_board``.

    Returns:
        For each team the row of its best hand-in, with ``hand_ins``, how many it made, and ``luck``: the difference
        from the baseline that the best of so many would show if none of them were better than the baseline.
    """
    spread = luck_spread(rows)
    teams: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        teams.setdefault(str(row["team"]), []).append(row)
    best = [
        {**max(mine, key=lambda row: row["dice"]), "hand_ins": len(mine), "luck": spread * expected_best(len(mine))}
        for mine in teams.values()
    ]
    return sorted(best, key=lambda row: -row["dice"])


def luck_spread(rows: Sequence[Mapping[str, Any]]) -> float:
    """How far a hand-in's difference scatters by the choice of the cases alone: the median standard error."""
    return float(np.median([row["error"] for row in rows])) if rows else 0.0


def expected_best(draws: int) -> float:
    """Expected maximum of so many independent draws from a standard normal distribution; 0 for one draw.

    The model of the board's luck: every hand-in is as good as the baseline, and its measured difference is off by an
    independent normal error. Hand-ins of one exam share their cases, so that in truth luck gives somewhat less.
    """
    above, _ = integrate.quad(lambda x: 1 - stats.norm.cdf(x) ** draws, 0, 12)
    below, _ = integrate.quad(lambda x: stats.norm.cdf(x) ** draws, -12, 0)
    return float(above - below)


def _with_earlier_stages(own: Sequence[Model], reference: Sequence[Model]) -> list[Model]:
    """A run with the stages of the baseline that come before its first."""
    order = list(STAGES)
    first = order.index(own[0].settings.stage)
    return [*(model for model in reference if order.index(model.settings.stage) < first), *own]


def _exam_of(cases: Sequence[Case]) -> str:
    """What tells one exam from another: the voxels of its cases."""
    return sha256("".join(sorted(case.digest() for case in cases)).encode()).hexdigest()[:12]


def _check_same_exam(board: Path, exam: str, target: str) -> None:
    """Refuse a board of another exam before anything is evaluated."""
    if board.is_dir() and any((row["exam"], row["target"]) != (exam, target) for row in read_board(board)):
        raise DualTaskError(f"{board}: holds hand-ins of another exam", "choose another folder for this one")


def _dice(evaluation: Evaluation, target: str) -> list[dict[str, Any]]:
    """The rows of the target; all cases or none, because teams must be tested on the same."""
    if evaluation.failed:
        raise DualTaskError(
            f"not evaluated: {evaluation.failed}", "repair these cases of the exam, see dualtask data check"
        )
    return [row for row in evaluation.rows if row["target"] == target]


def _paired(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each case that holds the target, the worst first; of several that were missed, the largest."""
    baseline = {row["case"]: number(row["dice"]) for row in expected}
    rows = [
        {
            "case": row["case"],
            "dice": number(row["dice"]),
            "baseline_dice": baseline[row["case"]],
            "difference": number(row["dice"]) - baseline[row["case"]],
            "volume_ml_truth": row["volume_ml_truth"],
        }
        for row in found
        if math.isfinite(number(row["dice"]))
    ]
    if len(rows) < 2:
        raise DualTaskError(f"{len(rows)} cases of the exam hold the target, too few to compare", "name more cases")
    return sorted(rows, key=lambda row: (row["dice"], -row["volume_ml_truth"]))


def _compared(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Both means, and the paired difference with its bootstrap interval and standard error."""
    rows = [{"arm": arm, "seed": 0, **row} for arm, of in (("own", found), ("baseline", expected)) for row in of]
    groups = paired_differences(pairs(rows, "own", "baseline", "dice"))
    low, high = bootstrap_interval(list(groups.values()))
    every = np.concatenate(list(groups.values()))
    dice, baseline = (float(np.nanmean([number(row["dice"]) for row in of])) for of in (found, expected))
    healthy = [row for row in found if not row["volume_ml_truth"]]
    return {
        "cases": len(every),
        "dice": dice,
        "baseline_dice": baseline,
        "difference": float(every.mean()),
        "low": low,
        "high": high,
        "error": float(every.std(ddof=1) / math.sqrt(len(every))),
        "found": sum(bool(row["detected"]) for row in found if row["volume_ml_truth"]),
        "false_alarms": sum(row["volume_ml_prediction"] > 0 for row in healthy),
        "without_target": len(healthy),
    }


def _seconds(models: Sequence[Model]) -> float | None:
    """Seconds of training of a team's stages, as their manifests say; None where one has none."""
    seconds = []
    for model in models:
        manifest = model.path.parent / MANIFEST
        if not manifest.exists():
            return None
        seconds.append(float(read_json(manifest)["seconds"]))
    return round(sum(seconds), 1)
