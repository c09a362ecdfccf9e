"""``python -m dfscan`` is the same as ``dfscan``."""

from dfscan.cli import main

if __name__ == "__main__":
    main()
