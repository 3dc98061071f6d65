import json
from pathlib import Path

import pytest
from PIL import Image

from scripts.plot_training import Run, main, plot, read_run
from util.logs import RunLog


def record(epoch: int, with_scores: bool = True) -> dict:
    train = {"loss": 5.0 / (epoch + 1), "l1": 1.0, "l1_0": 2.0, "grad_norm": 9.0}
    scores = {"eval": {"J": 0.5, "F": 0.6, "J&F": 0.55, "num_expressions": 7, "per_kind": {"size": {}}}}
    return {"epoch": epoch, "step": 10 * epoch, "train": train, "lr": {"main": 1e-4}} | (scores if with_scores else {})


def labels(axes) -> list[str]:
    return [line.get_label() for line in axes.lines]


def test_one_run_shows_its_losses_scores_and_rates() -> None:
    losses, scores, rates = plot({"run": Run([record(0, with_scores=False), record(1)])}).axes
    assert labels(losses) == ["loss", "l1"]
    assert list(losses.lines[0].get_xdata()) == [1, 2]
    assert list(losses.lines[0].get_ydata()) == [5, 2.5]
    assert labels(scores) == ["J", "F", "J&F"]
    assert list(scores.lines[0].get_xdata()) == [2]
    assert labels(rates) == ["main"]


def test_several_runs_show_their_totals() -> None:
    losses, _, _ = plot({"a": Run([record(0)]), "b": Run([record(0), record(1)])}).axes
    assert labels(losses) == ["a: loss", "b: loss"]


def test_what_is_logged_within_epochs_is_drawn_between_them(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for epoch in range(2):
        for step in (5 + 10 * epoch, 10 + 10 * epoch):
            log.scalars(step, {"train/loss": 7.0, "train/l1_0": 1.0, "lr/main": 1e-4})
        log.record(record(epoch, with_scores=False) | {"step": 10 * (epoch + 1)})
    log.close()
    losses, rates = plot({"run": read_run(tmp_path)}).axes  # there are no scores to draw
    assert losses.get_title() == "training loss" and rates.get_title() == "learning rate"
    means, within = (line for line in losses.lines if line.get_color() == losses.lines[0].get_color())
    assert list(means.get_xdata()) == [1, 2] and list(means.get_ydata()) == [5, 2.5]
    assert list(within.get_xdata()) == [0.5, 1, 1.5, 2] and list(within.get_ydata()) == [7] * 4
    assert len(rates.lines) == 2


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text("".join(json.dumps(record(epoch)) + "\n" for epoch in range(3)))
    main([str(tmp_path / "run"), "--output", str(tmp_path / "new" / "curves.png")])
    assert capsys.readouterr().out.strip().endswith("curves.png")
    with Image.open(tmp_path / "new" / "curves.png") as image:
        assert image.width > 1000
    with pytest.raises(FileNotFoundError, match=r"log\.jsonl"):
        main([str(tmp_path / "absent"), "--output", "x.png"])
    (tmp_path / "run" / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match="no epoch"):
        main([str(tmp_path / "run"), "--output", "x.png"])
