"""Every analytic figure of the papers, as `benchmarks/paper_tables.py` prints it."""

import math

import pytest

# Figures of each paper: derived, read back, and with a remark.
PAPERS = {
    "activation_density": (11, 10, 9),
    "cross_stack": (20, 11, 4),
    "pruning_while_training": (1, 2, 2),
    "admm_nn": (25, 33, 0),
    "green_ai": (5, 0, 1),
    "horowitz": (1, 10, 0),
    "drum": (21, 0, 0),
}


@pytest.mark.parametrize("paper", PAPERS)
def test_figures_agree_with_the_paper(paper_tables, paper):
    figures = list(getattr(paper_tables, paper)())
    kinds = (
        [f for f in figures if f.counts],
        [f for f in figures if f.read_back],
        [f for f in figures if f.remark],
    )
    assert tuple(map(len, kinds)) == PAPERS[paper]
    assert sum(map(len, kinds)) == len(figures)
    derived, read_back, remarked = kinds
    assert [f.quantity for f in derived + read_back if not f.agrees] == []
    assert [f.quantity for f in remarked if f.agrees] == []


def test_only_one_closed_border_block_gives_the_published_flops(paper_tables):
    for closed, published in ((25, 137.7), (18, 171.1)):
        fits = {}
        for borders in (0, 1, 2):
            low, high = paper_tables.left_by_layers(closed, borders)
            fits[borders] = low <= published <= high
        assert fits == {0: False, 1: True, 2: False}


def test_what_is_read_back_is_not_counted(paper_tables, monkeypatch, capsys):
    figures = [
        paper_tables.Figure("derived", "41.5", 41.46),
        paper_tables.Figure("constant", "3.7", 3.7, read_back=True),
        paper_tables.Figure("remarked", "3.7", 4.7, remark="not printed"),
    ]
    monkeypatch.setattr(paper_tables, "PAPERS", {"paper": lambda: iter(figures)})
    assert paper_tables.main() == 0
    out = capsys.readouterr().out
    assert "1 of 1 derived figures agree" in out
    assert "1 that are read back, 1 with a remark" in out


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
