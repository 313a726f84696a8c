from pathlib import Path

import pytest

from benchmarks.experiments.home_figure import LINES, TABLE, draw, main, read_accuracies

PAGE = """# A page

| | 1,331 | 2,662 |
|---|---|---|
| static ERK | 66.2 ± 6.8 | 91.0 ± 0.4 |
| RigL, ERK | 92.7 ± 0.4 | 95.1 ± 0.1 |

The dense net has 97.8 ± 0.1. Differences.
"""


def test_the_table_is_read_as_it_stands():
    found = read_accuracies(PAGE)
    assert found.kept == [1331, 2662]
    assert found.rows == {"static ERK": [(66.2, 6.8), (91.0, 0.4)], "RigL, ERK": [(92.7, 0.4), (95.1, 0.1)]}
    assert found.dense == 97.8


def test_the_figure_has_the_lines_of_the_page_of_results():
    axes = draw(read_accuracies(TABLE.read_text())).axes[0]
    assert len(axes.get_legend().get_texts()) == len(LINES) + 1
    lowest = min(line.get_ydata().min() for line in axes.lines if len(line.get_ydata()) == 3)
    assert lowest == pytest.approx(66.2 - 6.8)


def test_it_is_written_where_it_is_asked_for(tmp_path, capsys):
    main(["--out", str(tmp_path / "home.png")])
    assert Path(tmp_path, "home.png").stat().st_size > 10_000
    assert "home.png" in capsys.readouterr().out
