"""`python -m tunewright`: the command where the console script is not on the path."""

from tunewright.cli.main import main

if __name__ == "__main__":
    main()
