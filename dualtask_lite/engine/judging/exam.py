"""The exam: compare a learner's model with a baseline on a new hospital, and rank all teams on a board.

The more often a class tests on the hospital of the exam, the more its best score is due to chance. So the board keeps
and counts every hand-in, and shows the best difference that chance alone would give with as many hand-ins.
"""

from __future__ import annotations

import html
import math
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import StrictFloat
from scipy import integrate, stats

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.engine.config import STAGES
from dualtask_lite.engine.judging.evaluation import Evaluation, evaluate_cascades
from dualtask_lite.engine.judging.statistics import bootstrap_interval, paired_differences
from dualtask_lite.engine.predict import Prediction, in_cascade_order, predict_scan
from dualtask_lite.engine.records import plain, read_json, write_json
from dualtask_lite.engine.run import MANIFEST, Model, load_models
from dualtask_lite.engine.training.devices import pick_device
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import check_writable
from dualtask_lite.rows import number, pairs
from dualtask_lite.words import interval_in_words, signed

FEWEST_CASES = (
    10  # for a verdict: between equal models, one of ten intervals over 10 cases excludes 0, and more over fewer
)
LONGEST_NAME = 60  # characters of a team's name, which must fit on a line of the board
SCORES = ("dice", "baseline_dice", "difference", "low", "high", "error")  # numbers from -1 to 1
#: The values of every row of the board; a file without them was not written by ``hand_in``.
COLUMNS = ("team", "time", "exam", "target", "cases", *SCORES)


@dataclass(frozen=True, eq=False)
class HandIn:
    """Result of the exam; a notebook shows it as a table and a sentence.

    Attributes:
        row: one row of the board: team, mean Dice of both, difference with its interval, standard error, cases.
        results: one dict for each case: ``case``, ``dice``, ``baseline_dice``, ``difference`` and ``volume_ml_truth``.
        worst: the case with the lowest Dice, the largest of them if several were missed; with its label.
        prediction: for that case; ``volume3d(worst, prediction.mask, prediction.distance_mm)`` shows both in 3D.
        board: the file of this row; None without a board.
    """

    row: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    worst: Scan = field(repr=False)
    prediction: Prediction = field(repr=False)
    board: Path | None

    def __str__(self) -> str:
        row, worst = self.row, self.results[0]
        low, high = row["low"], row["high"]
        verdict = (
            "above the baseline" if low > 0 else "below the baseline" if high < 0 else "not distinguishable from it"
        )
        if row["cases"] < FEWEST_CASES:
            verdict = f"no verdict, which needs {FEWEST_CASES} cases"
        return (
            f"{row['team']}: {row['target']} Dice {row['dice']:.3f} on {row['cases']} cases of the exam, baseline "
            f"{row['baseline_dice']:.3f}. The difference is {signed(row['difference'])} (95 % interval "
            f"{interval_in_words((low, high))}): {verdict}. Worst case: {worst['case']}, Dice {worst['dice']:.2f}, "
            f"{worst['volume_ml_truth']:.1f} ml."
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
    """Test a run on the hospital of the exam, compare it with the baseline case by case, and add it to the board.

    Args:
        run: a run folder, or the folder of a cascade. The baseline supplies the stages before its first stage.
        name: of the team; case and spaces do not make it another team.
        board: a folder that all teams share; without it nothing is written.
        baseline: models that predict the same target, such as ``reference``.
        cases: of the exam: a known source or a folder (``dualtask data make exam``).
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: show a bar on a terminal or in a notebook.

    Raises:
        DualTaskError: when the name is empty or too long, a case was used in training or cannot be evaluated, the
            baseline predicts another target, or the board holds hand-ins of another exam or cannot be written.
    """
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME:
        raise DualTaskError(f"{name!r} cannot be the name of a team", f"give 1 to {LONGEST_NAME} characters")
    where = pick_device(device)
    reference = in_cascade_order(load_models(baseline, where))
    own = in_cascade_order(load_models(run, where))
    target = STAGES[own[-1].settings.stage].target
    if target != STAGES[reference[-1].settings.stage].target:
        raise DualTaskError(
            f"the run predicts the {target}, the baseline the {STAGES[reference[-1].settings.stage].target}",
            "hand in a run of the baseline's last stage, or name another baseline",
        )
    labelled = [case for case in find_cases(cases) if case.label is not None]
    exam = _exam_id(labelled)
    if board is not None:
        _check_same_exam(Path(board), exam, target)
        check_writable(Path(board))
    models = _with_earlier_stages(own, reference)
    evaluations = evaluate_cascades([models, reference], labelled, progress=progress)
    own_rows, baseline_rows = (_target_rows(evaluation, target) for evaluation in evaluations)
    results = _by_case(own_rows, baseline_rows)
    row = {
        "team": name,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "exam": exam,
        "target": target,
        **_overall(own_rows, baseline_rows),
        "trained_seconds": _training_seconds(own),
    }
    file = None if board is None else add_to_board(board, row)
    worst = next(case for case in labelled if case.id == results[0]["case"]).load()
    return HandIn(row, results, worst, predict_scan(models, worst), file)


def add_to_board(folder: str | Path, row: Mapping[str, Any]) -> Path:
    """Write one hand-in to a file of its own, so that none is lost when several teams hand in at the same time.

    Args:
        folder: of the board; it is created if necessary.
        row: a value for each of ``COLUMNS``, and optionally more.

    Raises:
        DualTaskError: when it cannot be written.
    """
    team = re.sub(r"[^a-z0-9]+", "-", str(row["team"]).lower()).strip("-") or "team"
    file = Path(folder) / f"{team}-{secrets.token_hex(8)}.json"  # unique on all machines
    write_json(file, plain(row))
    file.chmod(0o644)  # whatever the umask of the team: all others read it
    return file


def read_board(folder: str | Path) -> list[dict[str, Any]]:
    """Read all hand-ins of a board, the oldest first.

    Raises:
        DualTaskError: when the folder does not exist, a file is no hand-in, or there are several exams.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DualTaskError(f"{folder}: there is no such folder", "name the folder to which the teams hand in")
    rows = _hand_ins(folder)
    exams = {file: (row["exam"], row["target"]) for file, row in rows.items()}
    counts = Counter(exams.values())
    if len(counts) > 1:
        rarest = min(counts, key=lambda exam: counts[exam])
        files = ", ".join(file.name for file, exam in exams.items() if exam == rarest)
        raise DualTaskError(
            f"{folder}: holds hand-ins of more than one exam; of the rarest {files}", "keep a folder for each exam"
        )
    return sorted(rows.values(), key=lambda row: str(row["time"]))


def _hand_ins(folder: Path) -> dict[Path, dict[str, Any]]:
    """The rows of a board by their files; a file that is no hand-in is refused."""
    files = [file for file in sorted(folder.glob("*.json")) if not file.name.startswith(".")]  # these are being written
    rows = {file: read_json(file) for file in files}
    for file, row in rows.items():
        if not _is_hand_in(row):
            raise DualTaskError(f"{file}: is not a hand-in of the exam", "move it out of the folder of the board")
    return rows


def _is_hand_in(row: Mapping[str, Any]) -> bool:
    """Whether the content of a file is a row as ``hand_in`` writes it, which the board can compare and draw."""
    if not set(COLUMNS) <= set(row):
        return False
    texts, scores = (row[name] for name in ("team", "time", "exam", "target")), [row[name] for name in SCORES]
    seconds = row.get("trained_seconds")
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(value, (int, float)) for value in (*scores, row["cases"], seconds or 0))
        and all(-1 <= score <= 1 for score in scores)  # NaN is not
    )


def standings(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The best hand-in of each team, the highest score first.

    ``Ada`` and ``ada`` are one team: otherwise a second spelling would start a new count of hand-ins. The team has the
    name of its best hand-in.

    Args:
        rows: of ``read_board``.

    Returns:
        For each team the row of its best hand-in, with ``hand_ins``, their number, and ``luck``: the expected
        difference between the best of so many and the baseline if none of them were better than the baseline.
    """
    spread = luck_spread(rows)
    teams: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        teams.setdefault(" ".join(str(row["team"]).split()).casefold(), []).append(row)
    best = [
        {**max(own, key=lambda row: row["dice"]), "hand_ins": len(own), "luck": spread * expected_best(len(own))}
        for own in teams.values()
    ]
    return sorted(best, key=lambda row: -row["dice"])


def luck_spread(rows: Sequence[Mapping[str, Any]]) -> float:
    """Standard error of a hand-in's difference that is due to the choice of the cases: the median over hand-ins."""
    return float(np.median([row["error"] for row in rows])) if rows else 0.0


def expected_best(draws: int) -> float:
    """Expected maximum of ``draws`` independent draws from a standard normal distribution; 0 for one draw.

    The board assumes that every hand-in is as good as the baseline, and that its measured difference has an independent
    normal error. Hand-ins of one exam share their cases, so the effect of chance is in fact somewhat smaller.
    """
    above, _ = integrate.quad(lambda x: 1 - stats.norm.cdf(x) ** draws, 0, 12)
    below, _ = integrate.quad(lambda x: stats.norm.cdf(x) ** draws, -12, 0)
    return max(0.0, float(above - below))  # rounding makes that of one draw about -1e-18


def _with_earlier_stages(own: Sequence[Model], reference: Sequence[Model]) -> list[Model]:
    """Add the stages of the baseline that come before the first stage of a run."""
    order = list(STAGES)
    first = order.index(own[0].settings.stage)
    return [*(model for model in reference if order.index(model.settings.stage) < first), *own]


def _exam_id(cases: Sequence[Case]) -> str:
    """Identify an exam by the voxels of its cases."""
    return sha256("".join(sorted(case.digest() for case in cases)).encode()).hexdigest()[:12]


def _check_same_exam(board: Path, exam: str, target: str) -> None:
    """Refuse a board of another exam, before the evaluation."""
    for file, row in _hand_ins(board).items():
        if (row["exam"], row["target"]) != (exam, target):
            raise DualTaskError(
                f"{file}: is the hand-in of team {row['team']} to another exam",
                "move it out of the folder of the board, or choose the cases of that exam or another folder",
            )


def _target_rows(evaluation: Evaluation, target: str) -> list[dict[str, Any]]:
    """Rows of the target; refused unless all cases were evaluated, because all teams need the same cases."""
    if evaluation.failed:
        raise DualTaskError(
            f"not evaluated: {evaluation.failed}", "repair these cases of the exam, see dualtask data check"
        )
    return [row for row in evaluation.rows if row["target"] == target]


def _by_case(own: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each case that contains the target, the worst first; of missed ones, the largest first."""
    baseline_dice = {row["case"]: number(row["dice"]) for row in baseline}
    rows = [
        {
            "case": row["case"],
            "dice": number(row["dice"]),
            "baseline_dice": baseline_dice[row["case"]],
            "difference": number(row["dice"]) - baseline_dice[row["case"]],
            "volume_ml_truth": row["volume_ml_truth"],
        }
        for row in own
        if math.isfinite(number(row["dice"]))
    ]
    if len(rows) < 2:
        raise DualTaskError(f"only {len(rows)} cases of the exam contain the target", "give at least two such cases")
    return sorted(rows, key=lambda row: (row["dice"], -row["volume_ml_truth"]))


def _overall(own: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Both means, and the paired difference with its bootstrap interval and standard error."""
    rows = [{"arm": arm, "seed": 0, **row} for arm, scores in (("own", own), ("baseline", baseline)) for row in scores]
    groups = paired_differences(pairs(rows, "own", "baseline", "dice"))
    if alone := [centre for centre, values in groups.items() if len(values) < 2]:
        raise DualTaskError(
            f"centre {alone[0]} of the exam has one case with the target, so there is no interval",
            "give at least two such cases of each centre",
        )
    low, high = bootstrap_interval(list(groups.values()))
    differences = np.concatenate(list(groups.values()))
    dice, baseline_dice = (float(np.nanmean([number(row["dice"]) for row in scores])) for scores in (own, baseline))
    healthy = [row for row in own if not row["volume_ml_truth"]]
    return {
        "cases": len(differences),
        "dice": dice,
        "baseline_dice": baseline_dice,
        "difference": float(differences.mean()),
        "low": low,
        "high": high,
        "error": float(differences.std(ddof=1) / math.sqrt(len(differences))),
        "found": sum(bool(row["detected"]) for row in own if row["volume_ml_truth"]),
        "false_alarms": sum(row["volume_ml_prediction"] > 0 for row in healthy),
        "without_target": len(healthy),
    }


def _training_seconds(models: Sequence[Model]) -> float | None:
    """Total training time of the stages of a team, from their manifests; None if one has no manifest."""
    seconds = []
    for model in models:
        manifest = model.path.parent / MANIFEST
        if not manifest.exists():
            return None
        seconds.append(float(read_json(manifest, {"seconds": StrictFloat})["seconds"]))
    return round(sum(seconds), 1)
