"""`symnet STAGE`: every stage as a plain command. The workflow's rules call the same ones.

`--config` takes the resolved JSON of a job, as the workflow writes it, or an experiment file, whose settings for `--dataset` and
`--fold` are then resolved here, those of `--set` over them. Exit codes: `symnet.errors.EXIT_CODES`.
"""

import sys

from symnet.cli import bench, data, download, frozen, importing, learn, predict, protocol, results, state, track  # noqa: F401 (they add commands)
from symnet.cli.app import app
from symnet.errors import EXIT_USER, UserError

__all__ = ["app", "main"]


def main() -> None:
    """Run a command. A `UserError` becomes one line on standard error and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"symnet: {error}", file=sys.stderr)
        sys.exit(EXIT_USER)
