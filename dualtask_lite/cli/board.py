"""``dualtask board``: the teams' results of the exam, for the projector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dualtask_lite.cli.shared import AsJson, app, print_json, print_line


@app.command()
def board(
    folder: Annotated[Path, typer.Argument(help="The folder to which the teams hand in.")],
    file: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("board.html"),
    as_json: AsJson = False,
) -> None:
    """Write the leaderboard of the exam as one HTML page: the best hand-in of each team, and the effect of chance."""
    from dualtask_lite.engine.judging import exam
    from dualtask_lite.files import whole_file
    from dualtask_lite.show.board import Board

    rows = exam.read_board(folder)
    teams, spread = exam.standings(rows), exam.luck_spread(rows)
    luck = [spread * exam.expected_best(hand_ins) for hand_ins in range(1, max(10, len(rows)) + 1)]
    page = Board(teams, len(rows), spread, luck).to_html()
    with whole_file(file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    if as_json:
        print_json({"board": str(file), "hand_ins": len(rows), "spread": spread, "teams": teams})
    else:
        print_line(f"wrote {file}: teams {len(teams)}, hand-ins {len(rows)}")
