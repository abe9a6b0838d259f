"""``python -m regionspot``: the ``regionspot`` command."""

from regionspot.cli.main import main

if __name__ == "__main__":
    main()
