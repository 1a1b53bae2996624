"""What a test spent, beside its metric files."""

from pathlib import Path

import pytest

from symnet.costs import Spent, read_spent, spent_beside, write_spent
from symnet.errors import UserError

SPENT = Spent("a CPU, 2 threads", "features", 300, 12.5, 700_000_000)


def test_it_is_of_one_test_only(tmp_path: Path) -> None:
    metrics = tmp_path / "seed510.json"
    assert read_spent(metrics) is None
    metrics.write_text("counts")
    write_spent(metrics, SPENT)
    assert read_spent(metrics) == SPENT
    metrics.write_text("other counts")
    assert read_spent(metrics) is None


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    metrics = tmp_path / "seed510.json"
    metrics.write_text("counts")
    write_spent(metrics, SPENT)
    path = spent_beside(metrics)
    path.write_text(path.read_text().replace("12.5", "1.25"))
    with pytest.raises(UserError, match="damaged or edited"):
        read_spent(metrics)
