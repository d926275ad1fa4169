"""Training: one step by hand, schedules by formula, and two images learnt by heart."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from refusals import refuses
from torch.utils.data import Dataset

from ssd_annotated.boxes import pairwise_iou
from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.model import tiny_ssd
from ssd_annotated.predict import detect
from ssd_annotated.train import train
from ssd_annotated.transforms import collate

# Layers this small are one thread's work; more threads only wait for each other.
torch.set_num_threads(1)

COLOURS = {1: (220, 40, 40), 2: (40, 60, 220)}


class Squares(Dataset):
    """Images of 64 × 64 grey pixels, each with one coloured square; remembers who was asked for."""

    def __init__(self, count=2, objects=True):
        self.count, self.objects, self.asked = count, objects, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.asked.append(index)
        image = np.full((64, 64, 3), 120, dtype=np.uint8)
        label, left, top = 1 + index % 2, 8 + 20 * (index % 2), 10 + 3 * (index % 8)
        image[top : top + 24, left : left + 24] = COLOURS[label]
        box = torch.tensor([[left, top, left + 24, top + 24]]) / 64
        keep = slice(0, int(self.objects))
        return image, {"boxes": box[keep], "labels": torch.tensor([label])[keep]}


def small(seed=0):
    torch.manual_seed(seed)
    return tiny_ssd(num_classes=3, image_size=64, widths=(8, 8, 16, 16, 16, 16))


def run(model=None, dataset=None, steps=3, **options):
    return train(model or small(), dataset or Squares(), steps=steps, progress=False, **options)


def losses(history):
    return [(record["localization"], record["confidence"]) for record in history]


# ---------------------------------------------------------------- learning


def test_two_images_by_heart():
    model, squares = small(), Squares()
    history = run(model, squares, steps=60, batch_size=2, lr=1e-2)
    totals = [sum(pair) for pair in losses(history)]
    assert totals[-1] < totals[0] / 10
    for index, found in enumerate(detect(model, [squares[0][0], squares[1][0]])):
        target = squares[index][1]
        assert found.labels[0] == target["labels"][0]
        assert found.scores[0] > 0.5
        assert pairwise_iou(found.boxes[:1], target["boxes"]).item() > 0.7


def by_hand(update, **options):
    """Compare two steps of training with two of `update(weight, gradient, state)`, in place."""
    model = small().double()
    twin = copy.deepcopy(model).train()
    images, targets = collate([Squares()[0], Squares()[1]], model.recipe)
    states = [{} for _ in twin.parameters()]
    found, expected = [], []

    def keep(_step, model):
        found.append([weight.detach().clone() for weight in model.parameters()])

    # The first two rates of the "steps" schedule are the whole one.
    run(model, batch_size=2, lr=0.01, schedule="steps", on_step=keep, **options)
    for _ in range(2):
        twin.zero_grad()
        MultiBoxLoss(twin.priors)(twin(images.double()), targets).total.backward()
        for weight, state in zip(twin.parameters(), states, strict=True):
            update(weight.data, weight.grad, state)
        expected.append([weight.detach().clone() for weight in twin.parameters()])
    for step in range(2):
        for one, other in zip(found[step], expected[step], strict=True):
            # Before batch norm a bias has no slope but rounding, which AdamW magnifies.
            torch.testing.assert_close(one, other, rtol=1e-6, atol=3e-6)


def test_two_steps_of_sgd_by_hand():
    def update(weight, gradient, state):
        pull = gradient + 0.02 * weight
        state["speed"] = 0.9 * state["speed"] + pull if state else pull
        weight -= 0.01 * state["speed"]

    by_hand(update, optimizer="sgd", weight_decay=0.02, bias_weight_decay=0.02)


def test_two_steps_of_adamw_by_hand():
    def update(weight, gradient, state):
        step = state["step"] = state.get("step", 0) + 1
        state["mean"] = 0.9 * state.get("mean", 0) + 0.1 * gradient
        state["square"] = 0.999 * state.get("square", 0) + 0.001 * gradient**2
        mean, square = state["mean"] / (1 - 0.9**step), state["square"] / (1 - 0.999**step)
        weight *= 1 - 0.01 * 0.02
        weight -= 0.01 * mean / (square.sqrt() + 1e-8)

    by_hand(update, optimizer="adamw", weight_decay=0.02, bias_weight_decay=0.02)


# ---------------------------------------------------------------- what comes back


def test_a_record_for_each_step():
    history = run(steps=4)
    assert [record["step"] for record in history] == [0, 1, 2, 3]
    for record in history:
        assert set(record) == {"step", "localization", "confidence", "lr", "images_per_second"}
        assert all(math.isfinite(value) for value in record.values())
        assert record["images_per_second"] > 0


@pytest.mark.parametrize("option", ["default", "given"])
def test_the_first_record_is_the_loss_of_the_untrained_model(option):
    model = small()
    model.recipe = replace(model.recipe, variances=(0.3, 0.6))
    loss = MultiBoxLoss(model.priors, localization="l1", variances=(1.0, 1.0))
    if option == "default":
        loss = MultiBoxLoss(model.priors, variances=(0.3, 0.6))
    images, targets = collate([Squares()[0], Squares()[1]], model.recipe)
    expected = loss(copy.deepcopy(model).train()(images), targets)
    (record,) = run(model, steps=1, batch_size=2, loss=loss if option == "given" else None)
    assert record["localization"] == pytest.approx(expected.localization.item(), rel=1e-4)
    assert record["confidence"] == pytest.approx(expected.confidence.item(), rel=1e-4)


def test_on_step_sees_the_model_after_each_step():
    model, seen = small(), []
    before = next(model.parameters()).clone()

    def look(step, seen_model):
        assert seen_model is model
        seen.append((step, not torch.equal(before, next(seen_model.parameters()))))

    run(model, on_step=look)
    assert seen == [(0, True), (1, True), (2, True)]


def test_looking_with_detect_does_not_disturb():
    def look(_step, model):
        detect(model, [Squares()[0][0]])

    assert losses(run(steps=4, on_step=look)) == losses(run(steps=4))


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_shows_both_losses_or_nothing(progress, capsys):
    train(small(), Squares(), steps=2, progress=progress)
    shown = capsys.readouterr().err
    if not progress:
        assert shown == ""
    for words in ("2/2", "localization", "confidence", "images/s"):
        assert (words in shown) == progress


# ---------------------------------------------------------------- seeds and batches


def test_same_seed_same_run_whatever_happened_before():
    models, histories = [], []
    for noise in (1, 2):
        model = small()
        torch.manual_seed(noise)  # the loop's order does not depend on the global generator
        histories.append(losses(run(model, Squares(6), steps=4, batch_size=2, seed=7)))
        models.append(model)
    assert histories[0] == histories[1]
    weights = zip(*(model.state_dict().values() for model in models), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_another_seed_another_order():
    orders = []
    for seed in (0, 1):
        squares = Squares(12)
        run(dataset=squares, batch_size=4, seed=seed)
        orders.append(squares.asked)
    assert orders[0] != orders[1]


def test_every_image_once_then_all_again_in_another_order():
    squares = Squares(6)
    run(dataset=squares, steps=6, batch_size=2)
    rounds = [squares.asked[:6], squares.asked[6:12]]
    assert [sorted(order) for order in rounds] == [list(range(6))] * 2
    assert rounds[0] != rounds[1]


def test_batches_are_always_full_and_may_straddle_epochs():
    squares = Squares(5)
    run(dataset=squares, steps=5, batch_size=2)
    assert [sorted(squares.asked[:5]), sorted(squares.asked[5:])] == [[0, 1, 2, 3, 4]] * 2
    few = Squares(3)
    run(dataset=few, steps=3, batch_size=4)
    assert [sorted(few.asked[k : k + 3]) for k in (0, 3, 6, 9)] == [[0, 1, 2]] * 4


# ---------------------------------------------------------------- schedules


def rates(schedule, steps, lr=0.02, optimizer="adamw"):
    history = run(steps=steps, lr=lr, schedule=schedule, optimizer=optimizer, batch_size=2)
    return [record["lr"] for record in history]


def half_cosine(start, end, share):
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def test_onecycle_rises_for_a_tenth_and_falls():
    # From lr / 25 to lr in the first tenth, 0 ... 3; from there to lr / 250000 at step 39.
    low, peak, end = 0.02 / 25, 0.02, 0.02 / 25e4
    expected = [half_cosine(low, peak, step / 3) for step in range(4)]
    expected += [half_cosine(peak, end, (step - 3) / 36) for step in range(4, 40)]
    assert rates("onecycle", 40) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 11])
def test_short_cycles_rise_too(steps):
    # A tenth of 10 steps is a single one: no room to rise in, so it takes two.
    found = rates("onecycle", steps)
    assert found[0] == pytest.approx(0.02 / 25)
    assert found[1:2] == pytest.approx([0.02] * (steps > 1), rel=1e-3)
    assert found[1:] == sorted(found[1:], reverse=True)


def test_steps_divide_by_ten_after_two_thirds_and_five_sixths():
    expected = [0.01] * 28 + [0.001] * 7 + [0.0001] * 7
    assert rates("steps", 42, lr=0.01, optimizer="sgd") == pytest.approx(expected)


# ---------------------------------------------------------------- when it goes wrong


def test_a_loss_that_is_no_number_stops_the_run_and_spares_the_weights():
    model = small()
    with torch.no_grad():
        for head in model.localization_heads:
            head.bias[0] = math.nan
    before = [weight.clone() for weight in model.parameters()]
    message = r"no longer finite at step 0: localization nan, confidence \d+\.\d+"
    with pytest.raises(FloatingPointError, match=message):
        run(model)
    for weight, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(weight, old, rtol=0, atol=0, equal_nan=True)


def test_a_rate_far_too_high_is_told_at_its_step():
    with pytest.raises(FloatingPointError, match=r"no longer finite at step [1-9]"):
        run(steps=10, lr=1e20, optimizer="sgd", schedule="steps")


def test_images_without_objects_teach_nothing_and_break_nothing():
    history = run(dataset=Squares(objects=False), steps=2)
    assert losses(history) == [(0, 0), (0, 0)]


def test_double_precision_stays():
    model = small().double()
    run(model, steps=1)
    assert {weight.dtype for weight in model.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"dataset": Squares(0)}, r"len\(dataset\) must be at least 1, not 0"),
        ({"optimizer": "adam"}, r"optimizer must be one of \('sgd', 'adamw'\), not 'adam'"),
        ({"schedule": "cosine"}, r"schedule must be one of \('steps', 'onecycle'\), not 'cosine'"),
    ],
)
def test_a_run_that_cannot_be_is_refused(options, message):
    with refuses(message):
        train(**({"model": small(), "dataset": Squares(), "steps": 1, "progress": False} | options))
