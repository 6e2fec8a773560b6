"""Pictures that a person hands in: every format is read here, by one function, or refused."""
