"""`python -m sap_model.importers coco SOURCE OUT`: the command `import-coco`."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    benchmark, *rest = sys.argv[1:] or ["--help"]
    main([f"import-{benchmark}", *rest] if rest else ["--help"])
