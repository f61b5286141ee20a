"""``python -m dualtask_lite`` is ``dualtask``."""

from dualtask_lite.cli import main

main()
