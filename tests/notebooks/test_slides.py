"""Decks of slides and the one-page summary: what they show of an executed lesson, and what they leave out."""

import re

import nbformat
import slides
import summary
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dualtask_lite.show.picture import BOX

LIBRARY = {name: f"/* {name} */" for name in slides.REVEAL.files}
PICTURE = f'{BOX}><img alt="a figure" src="data:image/png;base64,AA=="></div>'


def shown(html):
    return new_output("execute_result", data={"text/html": html, "text/plain": "words"}, execution_count=1)


def tagged(cell, *tags):
    cell.metadata["tags"] = list(tags)
    return cell


OUTCOME = new_output(
    "execute_result", data={"text/plain": "You expected: nothing was chosen\nIt is: b) a half", "text/html": "<table>"}
)


def lesson():
    return new_notebook(
        cells=[
            new_markdown_cell("# 09 A lesson\n\nWhat it is about.\n\n- an objective"),
            tagged(new_code_cell("import things", outputs=[new_output("stream", text="installed")]), "bootstrap"),
            new_markdown_cell("## A section\n\nIts first paragraph.\n\nA second one."),
            new_code_cell("draw()", outputs=[new_output("stream", text="a printed line"), shown(PICTURE)]),
            tagged(new_code_cell("outcome()", outputs=[OUTCOME]), "outcome"),
            new_markdown_cell("More words about the figure."),
            new_markdown_cell("### Exercise 1\n\nCompute it.\n\nA hint."),
            tagged(new_code_cell("answer = 42", outputs=[shown("<table><tr><td>42</td></tr></table>")]), "solution"),
            tagged(new_code_cell("draw_best()", outputs=[shown(PICTURE)]), "summary"),
            new_markdown_cell("## What is known now\n\nThe verdict:"),
            new_code_cell("print(verdict)", outputs=[new_output("stream", text="- conversion: not shown.")]),
            new_markdown_cell("No more than that.\n\n## Summary\n\n- a line"),
            new_markdown_cell("## References\n\n1. A paper"),
        ]
    )


def parts(deck):
    """The text of each slide, and of the speaker's notes."""
    notes = re.findall(r'<aside class="notes">(.*?)</aside>', deck, re.S)
    return re.sub(r'<aside class="notes">.*?</aside>', "", deck, flags=re.S), " ".join(notes)


def test_deck_shows_figures_and_questions_and_hides_code_and_answers():
    seen, notes = parts(slides.deck(lesson(), "09 A lesson", LIBRARY))
    for text in (
        "What it is about.",
        "Its first paragraph.",
        "a figure",
        "A hint.",
        "The verdict:",
        "not shown.",
        "b) a half",
    ):
        assert text in seen, text
    for text in ("draw()", "a printed line", "installed", "answer = 42", "<td>42</td>", "A paper", "was chosen"):
        assert text not in seen + notes, text
    for text in ("A second one.", "More words about the figure."):
        assert text in notes, text
        assert text not in seen, text


def test_deck_holds_its_library_and_asks_no_network():
    deck = slides.deck(lesson(), "09 A lesson", LIBRARY)
    assert all(deck.count(text) == 1 for text in LIBRARY.values())
    assert not re.findall(r'(?:src|href)="?(?:https?:)?//', deck)
    assert "<title>09 A lesson slides</title>" in deck


def test_library_cannot_end_its_script_early():
    deck = slides.deck(lesson(), "x", LIBRARY | {"dist/reveal.js": "write('</script>')"})
    assert "write('<\\/script>')" in deck


def test_known_is_the_section_with_what_its_cells_print():
    known = summary.known(lesson())
    assert known.split("\n\n") == ["The verdict:", "- conversion: not shown.", "No more than that."]


def test_summary_holds_tagged_figures_and_what_is_known():
    cells = summary.summary([("09_a_lesson", lesson())]).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "markdown", "code"]
    assert cells[1].source.startswith("## [09 A lesson](09_a_lesson.ipynb)\n\nThe verdict:")
    assert PICTURE in nbformat.writes(new_notebook(cells=cells[2:])).replace('\\"', '"')
