"""The board of the exam for the projector: the best hand-in of each team, and the effect of luck, on one page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from dualtask_lite.words import counted, interval_in_words, signed

Row = Mapping[str, Any]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 320, 92, 60, 14  # of the figure, in its own units
_BAR = 120  # width of the drawing of an interval


@dataclass(frozen=True)
class Board:
    """The contents of the page.

    Attributes:
        teams: the best hand-in of each team, the best first: ``team``, ``dice``, ``baseline_dice``, ``difference``, its
            interval from ``low`` to ``high``, ``hand_ins``, ``luck``, ``trained_seconds``, ``target`` and ``cases``.
        hand_ins: of all teams together.
        spread: standard error of one hand-in's difference.
        luck: the difference that the best of 1, 2, ... ``hand_ins`` (and at least 10) shows by luck alone.
    """

    teams: Sequence[Row]
    hand_ins: int
    spread: float
    luck: Sequence[float]

    def to_html(self) -> str:
        """Write the page; it loads nothing from a network."""
        template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
        return template.substitute(
            summary=html.escape(self._in_words()),
            rows="\n".join(self._row(rank, team) for rank, team in enumerate(self.teams, start=1)),
            figure=self._figure() if self.teams else "",
            spread=f"{self.spread:.3f}",
        )

    def _in_words(self) -> str:
        if not self.teams:
            return "There is no hand-in yet."
        first = self.teams[0]
        best = max(team["difference"] for team in self.teams)
        teams, hand_ins = counted(len(self.teams), "team"), counted(self.hand_ins, "hand-in")
        return (
            f"{teams}, {hand_ins}, {first['cases']} cases. "
            f"Baseline: {first['target']} Dice {first['baseline_dice']:.3f}. "
            f"The best difference from it is {signed(best)}. "
            f"Luck alone gives {signed(self.luck[self.hand_ins - 1])} as the best of {hand_ins}."
        )

    def _row(self, rank: int, team: Row) -> str:
        seconds = team.get("trained_seconds")
        cells = {
            "place": str(rank),
            "team": html.escape(str(team["team"])),
            "Dice": f"<strong>{team['dice']:.3f}</strong>",
            "difference from the baseline": f"{signed(team['difference'])} <span class='interval'>("
            f"{interval_in_words((team['low'], team['high']))})</span>{self._interval(team)}",
            "hand-ins": str(team["hand_ins"]),
            "best by luck alone": signed(team["luck"]),
            "trained": "unknown" if seconds is None else f"{seconds / 60:.1f} min",
        }
        columns = [f'<td data-head="{head}"><span>{cell}</span></td>' for head, cell in cells.items()]
        columns[1] = f'<th scope="row" data-head="team"><span>{cells["team"]}</span></th>'
        return f"<tr>{''.join(columns)}</tr>"

    def _interval(self, team: Row) -> str:
        """Draw one interval on the scale of all teams, with a line at zero; the numbers are beside it."""
        largest = max(1e-6, *(abs(team[end]) for team in self.teams for end in ("low", "high")))

        def x_of(value: float) -> float:
            return round(_BAR / 2 * (1 + 0.95 * value / largest), 1)

        low, middle, high = (x_of(team[key]) for key in ("low", "difference", "high"))
        return (
            f'<svg class="bar" viewBox="0 0 {_BAR} 16" aria-hidden="true">'
            f'<line class="zero" x1="{_BAR / 2}" x2="{_BAR / 2}" y1="0" y2="16"/>'
            f'<line class="range" x1="{low}" x2="{high}" y1="8" y2="8"/><circle cx="{middle}" cy="8" r="4"/></svg>'
        )

    def _figure(self) -> str:
        """Draw each team's best difference over its number of hand-ins, with the curve of luck."""
        last = max(10, *(team["hand_ins"] for team in self.teams))
        curve = list(enumerate(self.luck[:last], start=1))
        values = [0.0, *(value for _, value in curve), *(team["difference"] for team in self.teams)]
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or 0.01
        low, high = low - margin, high + margin

        def at(hand_ins: float, difference: float) -> tuple[float, float]:
            x = _LEFT + (hand_ins - 0.5) / last * (_WIDTH - _LEFT - 10)
            return round(x, 1), round(_TOP + (high - difference) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

        points = " ".join(f"{x},{y}" for x, y in (at(*point) for point in curve))
        parts = [f'<polyline class="luck" points="{points}"/>']
        for value in sorted({0.0, round(min(values), 3), round(max(values), 3)}):
            y = at(1, value)[1]
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 5}" text-anchor="end">{signed(value)}</text>')
        for number in sorted({1, (1 + last) // 2, last}):
            x = at(number, 0)[0]
            parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 22}" text-anchor="middle">{number}</text>')
        middle = (_LEFT + _WIDTH) / 2
        parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">hand-ins of a team</text>')
        for team in self.teams:
            x, y = at(team["hand_ins"], team["difference"])
            name = html.escape(f"{team['team']}: {signed(team['difference'])}, hand-ins: {team['hand_ins']}")
            parts.append(f'<circle cx="{x}" cy="{y}" r="6"><title>{name}</title></circle>')
        above = sum(team["difference"] > team["luck"] for team in self.teams)
        words = html.escape(
            f"Best difference of each team against its number of hand-ins. {above} of {len(self.teams)} lie above the "
            f"curve of luck alone, which reaches {signed(curve[-1][1])} at {last} hand-ins."
        )
        drawn = f'<svg role="img" aria-label="{words}" viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(parts)}</svg>'
        return f"<figure>{drawn}<figcaption>{words}</figcaption></figure>"
