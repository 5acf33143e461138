"""The zoo from the command line."""

from __future__ import annotations

from skipway.cli import main
from skipway.zoo import published
from skipway.zoo.published import Figure


def test_show(capsys):
    assert main(["show", "cifar_resnet20"]) == 0
    assert capsys.readouterr().out.startswith("Chain  (N, 3, 32, 32) -> (N, 10)   269,722 parameters\n")


def test_show_of_a_name_that_is_not_there(capsys):
    assert main(["show", "cifar_resnet21"]) == 2
    assert "no net of the zoo is named 'cifar_resnet21': did you mean 'cifar_resnet" in capsys.readouterr().err


def test_check(capsys):
    assert main(["check", "lang_witbrock"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "lang_witbrock: all figures met"


def test_check_of_all(capsys, monkeypatch):
    names = ["lang_witbrock", "cascade"]
    monkeypatch.setattr("skipway.zoo.names", lambda: names)
    assert main(["check", "--all"]) == 0
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if not line.startswith(" ")] == names


def test_a_figure_that_is_not_met(capsys, monkeypatch):
    monkeypatch.setitem(published.FIGURES, "cascade", [Figure("parameters", 118, "somebody")])
    assert main(["check", "cascade"]) == 1
    told = capsys.readouterr()
    assert "  NOT  parameters   117     118  somebody" in told.out
    assert told.err == "skipway: not as published: cascade\n"


def test_check_needs_one_of_both(capsys):
    assert main(["check"]) == 2
    assert main(["check", "cascade", "--all"]) == 2
    assert capsys.readouterr().err.count("check takes --all, or the name of a net: ") == 2


def test_check_of_a_name_that_is_not_there(capsys):
    assert main(["check", "resnt18"]) == 2
    assert "did you mean 'resnet18'?" in capsys.readouterr().err
