"""``python -m regionspot``: the command line."""

from regionspot.cli.main import main

main()
