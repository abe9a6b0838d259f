"""The commands: what the entry scripts and ``regionspot`` call."""
