"""The one exception that is the user's to mend, and the exit codes of every command."""

EXIT_FOUND = 1  # what was asked for is so: protocols differ, something is bad. Also Python's own, of a crash with a traceback
EXIT_USER = 2  # the user's mistake: settings, files, arguments
EXIT_AGAIN = 75  # stopped before the end with its state saved: run the same command again (sysexits' EX_TEMPFAIL)
EXIT_INTERRUPTED = 130  # Ctrl-C
EXIT_CODES = {
    0: "done",
    EXIT_FOUND: "found: protocols differ, doctor sees something bad (or, with a traceback, a fault of ours)",
    EXIT_USER: "yours to mend: one line, or the usage, says what",
    EXIT_AGAIN: "stopped early, all saved: run it again",
    EXIT_INTERRUPTED: "interrupted",
}


class UserError(ValueError):
    """Something the user can mend. Its message is one line: what and where, what was found, what is allowed or to be done.

    The command line prints the message without a traceback and exits with `EXIT_USER`.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())  # a path or a key may hold a newline


def one_line(text: object) -> str:
    """`text` with every run of white space (newlines in a value, too) folded to one space."""
    return " ".join(str(text).split())
