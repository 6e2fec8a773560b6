"""What the README's table says, measured: `make bench`, or each module by itself."""
