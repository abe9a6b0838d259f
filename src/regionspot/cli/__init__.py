"""The command line: the entry scripts and the ``regionspot`` command."""
