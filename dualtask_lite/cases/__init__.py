"""Where a case comes from."""
