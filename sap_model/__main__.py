"""`python -m sap_model`: the commands that make calls."""

from sap_model.cli import main

if __name__ == "__main__":
    main()
