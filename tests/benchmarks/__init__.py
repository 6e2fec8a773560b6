"""The figures of docs/results.md, measured: `make bench`, or each module alone."""
