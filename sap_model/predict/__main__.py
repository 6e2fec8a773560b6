"""`python -m sap_model.predict`: the command `predict`.

    python -m sap_model.predict room.jpg --click 1200,900 --click 1300,700,0 --out mask.png

The default model comes with the package and runs on a laptop.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
