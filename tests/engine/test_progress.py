"""Bars are drawn on a terminal and in a notebook, and nowhere else."""

import os
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")

BARS = """
from dualtask_lite.engine.progress import progress_bar
with progress_bar() as bar:
    for _ in bar.track(range(3), description="counting"):
        pass
    task = bar.add_task("training", total=2, note="loss 0.5")
    bar.update(task, advance=1, note="loss 0.4")
print("done")
"""


def on_a_terminal(code):
    """Run code with a pseudo-terminal for all three streams; return its exit code and its output."""
    drawn = bytearray()

    def read(descriptor):
        data = os.read(descriptor, 1024)
        drawn.extend(data)
        return data

    status = pty.spawn([sys.executable, "-c", code], read)
    return os.waitstatus_to_exitcode(status), drawn.decode()


def test_terminal_shows_tasks_with_and_without_a_note(capfd):
    code, drawn = on_a_terminal(BARS)
    assert code == 0, drawn
    for text in ("counting", "3/3", "training", "1/2", "loss 0.4", "done"):
        assert text in drawn


def test_notebook_gets_one_updated_output(monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the notebooks extra is not installed")
    always_draw = "from dualtask_lite.engine import progress; progress._INTERVAL = -1"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(always_draw + BARS)])
    client, drawn = nbclient.NotebookClient(notebook, kernel_name="python3"), []

    def listen(message, *args, process=client.process_message):
        drawn.append(message["content"].get("data", {}).get("text/plain"))
        return process(message, *args)

    monkeypatch.setattr(client, "process_message", listen)
    client.execute()
    bar, done = notebook.cells[0].outputs
    assert bar.data["text/plain"] == "training 1/2, loss 0.4"
    assert '<progress max="2" value="1">' in bar.data["text/html"]
    assert done.text == "done\n"
    texts = [text.partition(", about")[0] for text in dict.fromkeys(filter(None, drawn))]
    assert texts == [*(f"counting {n}/3" for n in range(4)), "training 0/2, loss 0.5", "training 1/2, loss 0.4"]


def test_pipe_gets_no_bar_even_with_forced_colours(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = subprocess.run([sys.executable, "-c", BARS], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    assert done.stderr == ""
