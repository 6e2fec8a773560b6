"""What each command does: a few lines over the modules that do the work."""
