"""Every analytic figure of the papers, as `benchmarks/paper_tables.py` prints it."""

import math

import pytest

PAPERS = {
    "activation_density": 24,
    "cross_stack": 21,
    "pruning_while_training": 4,
    "admm_nn": 22,
    "green_ai": 2,
    "horowitz": 11,
    "drum": 21,
}


@pytest.mark.parametrize("paper", PAPERS)
def test_figures_agree_with_the_paper(paper_tables, paper):
    figures = list(getattr(paper_tables, paper)())
    assert len(figures) == PAPERS[paper]
    wrong = [f for f in figures if not f.remark and not f.agrees]
    assert not wrong


def test_few_figures_are_excused(paper_tables):
    excused = [
        f for paper in PAPERS for f in getattr(paper_tables, paper)() if f.remark
    ]
    assert len(excused) == 8
    assert all(not f.agrees for f in excused)


def test_a_wrong_figure_fails(paper_tables, capsys):
    right = paper_tables.Figure("right", "41.5", 41.46)
    wrong = paper_tables.Figure("wrong", "41.5", 41.56)
    assert right.agrees and not wrong.agrees
    assert paper_tables.show("paper", [right, wrong]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_drum_errors_by_brute_force(paper_tables):
    """All pairs of 6-bit operands, with the error taken pair by pair."""

    def truncate(n, k):
        binary = f"{n:b}"
        if len(binary) <= k:
            return n
        return int(binary[: k - 1] + "1" + "0" * (len(binary) - k), 2)

    pairs = [(a, b) for a in range(1, 64) for b in range(1, 64)]
    errors = [truncate(a, 1) * truncate(b, 3) / (a * b) - 1 for a, b in pairs]
    mean = math.fsum(errors) / len(errors)
    absolute = math.fsum(map(abs, errors)) / len(errors)
    variance = math.fsum((error - mean) ** 2 for error in errors) / len(errors)
    expected = (100 * mean, 100 * absolute, 100 * math.sqrt(variance))
    assert paper_tables.drum_error(1, 3, width=6) == pytest.approx(expected)
