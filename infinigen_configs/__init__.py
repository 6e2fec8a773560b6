"""What InfiniGen is asked for: one file for each generator, part of a run's settings hash."""
