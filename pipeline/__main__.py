"""`python -m pipeline`: the commands that make calls."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
