"""Rungs: the losses that can be known beforehand, and a training that stays on one is told so."""

import math
import re

import pytest
import torch
from squares import Squares, small
from test_run import go

from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.training import rungs
from ssd_annotated.training.run import run
from ssd_annotated.training.rungs import Ladder, Standing, find_rungs
from ssd_annotated.training.settings import Settings
from ssd_annotated.training.train import Trainer

STILL = Settings(steps=9, batch_size=2, lr=0)


def test_rungs_of_equally_frequent_classes_are_the_chapters():
    for classes in (2, 3, 21):
        found = find_rungs(torch.tensor([0] + [7] * (classes - 1)))
        expected = 4 * math.log(classes), math.log(4 * (classes - 1)) + 3 * math.log(4 / 3)
        assert found == pytest.approx((*expected, math.log(classes - 1)))


@pytest.mark.parametrize("ratio", [0, 2, 3])
def test_rungs_are_the_losses_of_answers_made_up(ratio):
    # 40 priors of the same place and so few objects that negatives are never short.
    priors = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) / 8 + 0.1
    priors[:4] = torch.tensor([0.7, 0.7, 0.2, 0.2])
    box = torch.tensor([[0.6, 0.6, 0.8, 0.8]])
    targets = [{"boxes": box, "labels": torch.tensor([label])} for label in (1, 1, 1, 2)]
    loss = MultiBoxLoss(priors, negatives_per_positive=ratio)
    counts = torch.zeros(3, dtype=torch.int64)
    counts += loss.find_positives(targets, 3).labels.bincount(minlength=3)
    assert counts.tolist() == [0, 12, 4]

    def cost(background, *names):
        scores = torch.tensor([background, *names]).expand(4, 40, 3)
        return loss((torch.zeros(4, 40, 4), scores.log()), targets).confidence.item()

    share = 1 / (1 + ratio)
    nothing, proportions, where = find_rungs(counts, ratio)
    assert cost(1 / 3, 1 / 3, 1 / 3) == pytest.approx(nothing, rel=1e-5)
    found = cost(1 - share, share * 3 / 4, share / 4)
    assert found == pytest.approx(proportions, rel=1e-5)
    assert where == pytest.approx(-math.log(3 / 4) * 3 / 4 - math.log(1 / 4) / 4)
    if ratio:  # what costs least without looking
        assert cost(1 - share * 0.9, share * 0.675, share * 0.225) > found


@pytest.mark.parametrize(
    ("loss", "passed", "words"),
    [
        (9.0, 0, "knows nothing yet (that costs 4.39)"),
        (4.36, 0, "knows nothing yet"),
        (2.94, 1, "no better than answering without looking (knowing the proportions costs 2.94)"),
        (2.90, 1, "no better than answering"),
        (2.69, 2, "looks (below 2.94"),
        (0.30, 3, "tells classes apart (below 0.69"),
    ],
)
def test_a_loss_is_put_into_words(loss, passed, words):
    standing = Standing(loss, find_rungs(torch.tensor([0, 1, 1])))
    assert standing.passed == passed
    assert str(standing).startswith(f"confidence loss {loss:.2f}: ")
    assert words in str(standing)


def test_one_class_has_no_last_rung():
    standing = Standing(0.0, find_rungs(torch.tensor([0, 5])))
    assert standing.passed == 2
    assert standing.expectation == "expect more as the confidence loss falls"  # not below -0.00


def followed(losses, steps=1200, start=0, best=None, **options):
    """What a ladder says of these losses, with the steps at which it says it."""
    trainer = Trainer(small(), Squares(), Settings(steps=steps), **options)
    trainer.positives += torch.tensor([0, 5, 5])
    ladder = Ladder(trainer)
    said = [
        (step + 1, ladder.add({"step": step, "confidence": loss}, best))
        for step, loss in enumerate(losses, start)
    ]
    return [(step, words) for step, words in said if words], ladder


def test_a_run_that_learns_is_told_each_rung_once():
    said, ladder = followed([9.0] * 100 + [2.95] * 100 + [2.0] * 300 + [0.2] * 200)
    assert [step for step, _ in said] == [100, 200, 300, 600]
    assert "knows nothing yet" in said[0][1]
    assert "tells classes apart" in said[3][1]
    assert ladder.standing == Standing(pytest.approx(0.2), find_rungs(torch.tensor([0, 5, 5])))


def test_a_run_that_stays_is_warned_once():
    said, _ = followed([2.94] * 900)
    assert [step for step, _ in said] == [100, 400]
    assert said[1][1].startswith("warning: after 400 steps, confidence loss 2.94: no better than")
    assert "Try: " in said[1][1]
    assert followed([2.94] * 399)[0] == said[:1]
    assert followed([2.94] * 900, best=0.05)[0] == said
    assert followed([2.94] * 900, best=0.2)[0] == said[:1], "it finds something"
    resumed = followed([2.94] * 900, start=1000)[0]
    assert [(step, words.split(":")[0]) for step, words in resumed] == [(1100, "warning")]


def test_a_long_run_may_take_longer():
    assert [step for step, _ in followed([5.0] * 2500, steps=120_000)[0]] == [100, 2400]


@pytest.mark.parametrize("options", [{"confidence": "focal"}, {"normalize": "images"}])
def test_other_losses_have_no_rungs(options):
    said, ladder = followed([9.0] * 500, loss=MultiBoxLoss(small().priors, **options))
    assert (said, ladder.standing) == ([], None)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(rungs, "WINDOW", 3)
    monkeypatch.setattr(rungs, "PATIENCE", 6)


@pytest.mark.usefixtures("impatient")
def test_a_run_says_where_it_stands(tmp_path, capsys):
    with pytest.warns(UserWarning, match=r"^after 6 steps, .*: the network knows nothing"):
        outcome = go(tmp_path / "silent", settings=STILL)
    assert outcome.standing.passed == 0
    assert outcome.standing.rungs.nothing == pytest.approx(4 * math.log(3))
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("impatient")
def test_a_run_with_a_bar_says_it_above_the_bar(tmp_path, capsys):
    run(small(), Squares(2), tmp_path, STILL)
    lines = [line.split("\r")[-1] for line in capsys.readouterr().err.splitlines()]
    said = [line for line in lines if "the network knows nothing" in line]
    assert [line.split(",")[0].split(":")[0] for line in said] == ["step 3", "warning"]


@pytest.mark.usefixtures("impatient")
def test_the_first_validation_says_what_to_expect(tmp_path, capsys):
    run(small(), Squares(2), tmp_path, STILL, validation=Squares(2), validate_every=4)
    said = [line for line in capsys.readouterr().err.splitlines() if "first look" in line]
    assert len(said) == 1
    assert re.search(
        r"first look, after 4 of 9 steps: mAP 0\.\d{3}; expect more once the confidence loss",
        said[0],
    )


def test_what_to_expect_follows_the_rungs():
    rungs = find_rungs(torch.tensor([0, 1, 1]))
    assert "once the confidence loss is below 2.94" in Standing(2.94, rungs).expectation
    assert "below 0.69" in Standing(1.5, rungs).expectation
    assert "finds and names" in Standing(0.2, rungs).expectation


def test_a_short_run_says_nothing(tmp_path):
    assert go(tmp_path).standing is None


def test_positives_are_counted_by_class():
    trainer = Trainer(small(), Squares(2), STILL)
    trainer.step()
    expected = trainer.loss.find_positives([Squares(2)[i][1] for i in range(2)], 3).labels
    assert trainer.positives.tolist() == expected.bincount(minlength=3).tolist()
