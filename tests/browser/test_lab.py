from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("lab", ["/", "/user/ada/"], indirect=True)
def test_notebook_runs_in_jupyterlab_without_traces_on_the_machine(lab: Any, page: Any):
    lab.run(page, ["x = 6", "import time; time.sleep(1); print(x * 7)"])
    assert page.locator(".jp-OutputArea-output").inner_text().strip() == "42"
    assert page.url.startswith(lab.url)


def test_failing_cell_fails_the_test(lab: Any, page: Any):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        lab.run(page, ["1 / 0", "print('not reached')"])
