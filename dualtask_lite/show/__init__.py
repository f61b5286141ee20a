"""Looking at it: figures and viewers."""
