"""The one error for what a person can put right.

Its text says what was found, what was wanted, and what to do next. The command line prints it
without a traceback and exits with 2; over HTTP it becomes a 400 in OpenAI's error shape.
"""


class CannotServe(ValueError):
    """Something the operator or the caller has to change before Mooring can go on."""
