"""`python -m tfcompress`: the command line."""

from tfcompress.cli import main

if __name__ == "__main__":
    main()
