"""Cases: their sources, files, checks and splits."""
