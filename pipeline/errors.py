"""The one exception whose message is meant for the user."""


class UserError(Exception):
    """Something the user can fix; the message is one line that says what and how.

    The command line prints the message without a traceback and exits with status 2.
    """
