"""What the tests of figures share."""

import pytest

from dualtask_lite.show.picture import Picture


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that are drawn, before they become pictures."""
    figures = []
    monkeypatch.setattr(Picture, "of", lambda figure, alt: figures.append(figure) or Picture(b"", alt))
    return figures
