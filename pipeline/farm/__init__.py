"""The farm: which scene does what next, where it runs, and what became of every attempt."""
