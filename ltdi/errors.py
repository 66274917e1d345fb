"""The one exception for the user's mistakes."""


class InputError(ValueError):
    """Bad input: one line that names the key or file, its value, what is allowed and what to do.

    ``pipeline`` prints the line and exits with code 2; nothing has been written by then.
    """
