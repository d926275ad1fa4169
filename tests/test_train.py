"""Training: one step by hand, schedules by formula, and two images learnt by heart."""

import copy
import math
import resource
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch
from children import Child
from refusals import refuses, unchecked
from squares import Squares, small

from ssd_annotated.boxes import pairwise_iou
from ssd_annotated.data.augment import AUGMENTATIONS, Augmented
from ssd_annotated.detection import detect
from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.training.settings import QUICK, Settings, learning_rate
from ssd_annotated.training.train import Trainer, train
from ssd_annotated.transforms import collate

# Layers this small are enough work for one thread; more threads only wait for each other.
torch.set_num_threads(1)


def run(model=None, dataset=None, steps=3, **options):
    return train(model or small(), dataset or Squares(), steps=steps, progress=False, **options)


def losses(history):
    return [(record["localization"], record["confidence"]) for record in history]


# ---------------------------------------------------------------- learning


def test_two_images_by_heart():
    model, squares = small(widths=(8, 8, 16, 16, 16, 16)), Squares()
    history = run(model, squares, steps=60, batch_size=2, lr=1e-2)
    totals = [sum(pair) for pair in losses(history)]
    assert totals[-1] < totals[0] / 10
    for index, found in enumerate(detect(model, [squares[0][0], squares[1][0]])):
        target = squares[index][1]
        assert found.labels[0] == target["labels"][0]
        assert found.scores[0] > 0.5
        assert pairwise_iou(found.boxes[:1], target["boxes"]).item() > 0.7


def by_hand(update, **options):
    """Compare two steps with two of ``update(weight, gradient, state, is_bias)``, in place."""
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
        for (name, weight), state in zip(twin.named_parameters(), states, strict=True):
            update(weight.data, weight.grad, state, name.endswith("bias"))
        expected.append([weight.detach().clone() for weight in twin.parameters()])
    for step in range(2):
        for one, other in zip(found[step], expected[step], strict=True):
            # Before batch norm a bias has no slope but rounding, which AdamW magnifies.
            torch.testing.assert_close(one, other, rtol=1e-6, atol=3e-6)


def test_two_steps_of_sgd_by_hand():
    def update(weight, gradient, state, _is_bias):
        pull = gradient + 0.02 * weight
        state["speed"] = 0.9 * state["speed"] + pull if state else pull
        weight -= 0.01 * state["speed"]

    by_hand(update, optimizer="sgd", weight_decay=0.02, bias_weight_decay=0.02)


def test_two_steps_of_caffes_sgd_where_biases_learn_twice_as_fast_and_do_not_decay():
    # This would show the two groups exchanged, a bias that decays, or a factor lost between steps.
    def update(weight, gradient, state, is_bias):
        pull = gradient + (0 if is_bias else 0.02) * weight
        state["speed"] = 0.9 * state["speed"] + pull if state else pull
        weight -= (2 if is_bias else 1) * 0.01 * state["speed"]

    paper = {"bias_lr_factor": 2.0, "bias_weight_decay": 0.0}
    by_hand(update, optimizer="sgd", weight_decay=0.02, **paper)


def test_two_steps_of_adamw_by_hand():
    def update(weight, gradient, state, _is_bias):
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


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_default_type_of_numbers_does_not_matter(optimizer):
    models = [small(), small(), small().double()]
    expected = losses(run(models[0], batch_size=2, optimizer=optimizer))
    torch.set_default_dtype(torch.float64)
    try:
        found = losses(run(models[1], batch_size=2, optimizer=optimizer))
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=0)
        run(models[2], batch_size=2, optimizer=optimizer)
    finally:
        torch.set_default_dtype(torch.float32)


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


PAPER = {
    "steps": 120_000,
    "batch_size": 32,
    "optimizer": "sgd",
    "lr": 0.001,
    "weight_decay": 0.0005,
    "schedule": "steps",
    "milestones": (2 / 3, 5 / 6),
    "warmup": 500,
    "bias_lr_factor": 2.0,
    "bias_weight_decay": 0.0,
    "clip_norm": None,
    "precision": "float32",
    "freeze_batch_norm": False,
    "freeze": "none",
    "compile": False,
    "workers": 0,
    "seed": 0,
}


def test_the_defaults_are_the_papers_numbers():
    assert asdict(Settings()) == PAPER
    assert Trainer(small(), Squares()).settings == Settings()


def test_the_papers_rate_at_its_turning_points():
    def rate(step):
        return learning_rate(step, Settings())

    expected = {0: 1e-3 / 3, 250: 2e-3 / 3, 500: 1e-3, 79_999: 1e-3, 80_000: 1e-4}
    expected |= {99_999: 1e-4, 100_000: 1e-5, 119_999: 1e-5}
    assert {step: rate(step) for step in expected} == pytest.approx(expected)


def torchs_rates(scheduler, steps):
    """What torch's own schedule does to a rate of 0.02."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.02)
    schedule = scheduler(optimizer)
    found = []
    for _ in range(steps - 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*found, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("steps", [20, 37, 600])
def test_onecycle_is_torchs(steps):
    settings = replace(QUICK, steps=steps, lr=0.02)
    found = [learning_rate(step, settings) for step in range(steps)]
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, pct_start=0.1)
    expected = torchs_rates(partial(one_cycle, max_lr=0.02, total_steps=steps), steps)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("steps", [12, 601])
def test_steps_is_torchs(steps):
    settings = Settings(steps=steps, lr=0.02, warmup=0, milestones=(0.25, 0.5, 0.75))
    places = [round(0.25 * steps), round(0.5 * steps), round(0.75 * steps)]
    multi_step = torch.optim.lr_scheduler.MultiStepLR
    expected = torchs_rates(partial(multi_step, milestones=places), steps)
    found = [learning_rate(step, settings) for step in range(steps)]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("schedule", ["steps", "onecycle"])
def test_warm_up_rises_from_a_third(schedule):
    settings = Settings(steps=40, schedule=schedule, warmup=4, lr=1.0)
    cold = replace(settings, warmup=0)
    ratios = [learning_rate(s, settings) / learning_rate(s, cold) for s in range(40)]
    assert ratios == pytest.approx([1 / 3, 1 / 2, 2 / 3, 5 / 6] + [1] * 36)


def test_warm_up_takes_a_tenth_of_the_steps_at_most():
    rates = [learning_rate(s, Settings(steps=30, warmup=500, lr=1.0)) for s in range(5)]
    assert rates == pytest.approx([1 / 3, 5 / 9, 7 / 9, 1, 1])


# ---------------------------------------------------------------- what else settings change


def weights_of(model):
    return torch.cat([weight.detach().double().flatten() for weight in model.parameters()])


def way(**options):
    """One step of plain gradient descent over all weights, divided by the learning rate."""
    model = small()
    before = weights_of(model)
    plain = {"optimizer": "sgd", "schedule": "steps", "weight_decay": 0.0, "bias_weight_decay": 0.0}
    run(model, steps=1, batch_size=2, lr=1e-2, **plain, **options)
    return (weights_of(model) - before) / 1e-2


def test_clipping_shortens_the_whole_gradient_and_keeps_its_direction():
    free = way()
    length = free.norm().item()
    clipped = way(clip_norm=length / 4)
    torch.testing.assert_close(clipped, free / 4, rtol=1e-4, atol=1e-5 * length)
    torch.testing.assert_close(way(clip_norm=length * 4), free)


def test_in_half_precision_what_is_clipped_is_the_gradient_and_not_the_scaled_one(monkeypatch):
    # Scaled up by 1024 the norm would be far too large, and the step almost zero.
    modest = partial(torch.amp.GradScaler, init_scale=1024.0)  # so that nothing overflows at first
    monkeypatch.setattr(torch.amp, "GradScaler", modest)
    length = way(precision="float16").norm().item()
    clipped = way(precision="float16", clip_norm=length / 4).norm().item()
    assert clipped == pytest.approx(length / 4, rel=1e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_trains_and_keeps_single_precision_weights(precision):
    model = small()
    history = run(model, steps=12, batch_size=2, lr=1e-2, precision=precision)
    exact = run(steps=12, batch_size=2, lr=1e-2)
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32, torch.int64}
    assert losses(history[:1])[0] == pytest.approx(losses(exact[:1])[0], rel=0.03)
    assert losses(history) != losses(exact), "nothing was rounded: the precision was not used"
    assert sum(losses(history)[-1]) < sum(losses(history)[0]) / 2


def test_frozen_batch_norm_keeps_its_statistics_while_weights_move():
    model = small()
    run(model, steps=3)  # statistics that are not those of any one batch
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = MultiBoxLoss(model.priors)
    images, targets = collate([Squares()[0], Squares()[1]], model.recipe)
    expected = loss(copy.deepcopy(model).eval()(images), targets)
    history = run(model, steps=2, batch_size=2, freeze_batch_norm=True)
    moved = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert not {name for name in moved if "running" in name or "tracked" in name}
    assert {"trunk.0.0.weight", "trunk.0.1.weight", "trunk.0.1.bias"} <= moved
    assert losses(history)[0] == pytest.approx(
        (expected.localization.item(), expected.confidence.item()), rel=1e-5
    )


def test_numpys_numbers_become_pythons():
    # A checkpoint with others could be written, but no safe load would read it again.
    with unchecked():
        settings = Settings(lr=np.float64(0.5), steps=np.int64(7), milestones=np.array([0.5, 0.75]))
    assert settings == Settings(lr=0.5, steps=7, milestones=(0.5, 0.75))
    kinds = {type(value) for value in (settings.lr, settings.steps, *settings.milestones)}
    assert kinds == {float, int}


# ---------------------------------------------------------------- workers


def augmented(count=5):
    return Augmented(Squares(count), AUGMENTATIONS["caffe"], image_size=64, seed=3)


def test_workers_change_nothing():
    models = [small(), small()]
    histories = [
        run(model, augmented(), steps=6, batch_size=2, workers=workers)
        for model, workers in zip(models, (0, 2))
    ]
    assert losses(histories[0]) == losses(histories[1])
    assert torch.equal(*map(weights_of, models))


class Watched(Augmented):
    """Remembers the keys that it was asked for."""

    def __getitem__(self, key):
        self.keys = [*getattr(self, "keys", []), key]
        return super().__getitem__(key)


def test_an_augmented_data_set_is_asked_for_each_epoch_anew():
    watched = Watched(Squares(3), AUGMENTATIONS["caffe"], image_size=64)
    run(dataset=watched, steps=4, batch_size=2)
    assert [epoch for _, epoch in watched.keys] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert sorted(index for index, _ in watched.keys[3:6]) == [0, 1, 2]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_restored_trainer_goes_on_in_the_middle_of_an_epoch(precision):
    # Half precision finds its scale in the first steps: without it, a restored run skips some.
    settings = Settings(steps=6, batch_size=2, precision=precision)
    whole, first, second = (Trainer(small(), augmented(), settings) for _ in range(3))
    for _ in range(6):
        whole.step()
    for _ in range(4):
        first.step()
    second.model.load_state_dict(first.model.state_dict())
    second.step()  # batches prepared before the restore must not be used
    second.model.load_state_dict(first.model.state_dict())
    second.restore(copy.deepcopy(first.state()))
    assert [second.step()["step"], second.step()["step"]] == [4, 5]
    assert torch.equal(weights_of(second.model), weights_of(whole.model))


def with_few_open_files(workers):
    """Train on large batches where a process may open 256 files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    return len(run(dataset=Squares(100), steps=3, batch_size=100, workers=workers))


def test_large_batches_from_workers_need_few_open_files():
    # Each tensor that a process sends to another is an open file there: 200 a batch.
    assert Child(with_few_open_files, 1).end() == (0, 3)


def left_open(breaks):
    """Leave a trainer open when the process ends, as a global variable or after an error."""
    global left
    left = Trainer(small(), Squares(), replace(QUICK, workers=1, batch_size=2))
    left.step()
    if breaks:
        raise RuntimeError("bad luck")


@pytest.mark.parametrize("breaks", [False, True])
def test_a_program_with_workers_ends(breaks):
    # Python ends workers with SIGTERM and waits; it waited for ever for workers that ignored it.
    end = Child(left_open, breaks).end()
    assert end == (0, "RuntimeError: bad luck" if breaks else None)


def losses_of_three_steps(backend):
    """Eager without a backend; this process has no shape checks, on which a compiler fails."""
    torch.compile, compiler = partial(torch.compile, backend=backend), torch.compile
    history = run(steps=3, batch_size=2, compile=backend is not None)
    assert torch.compile.func is compiler
    return losses(history)


def test_compiled_is_eager():
    # "aot_eager" traces forward and backward pass as "inductor" does, and needs no C++ compiler.
    compiled, eager = (Child(losses_of_three_steps, backend) for backend in ("aot_eager", None))
    for one, other in zip(compiled.end().result, eager.end().result, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


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
        ({"optimizer": "adam"}, "optimizer must be 'sgd' or 'adamw', not 'adam'"),
        ({"schedule": "cosine"}, "schedule must be 'steps' or 'onecycle', not 'cosine'"),
        ({"precision": "half"}, "precision must be 'float32', 'bfloat16' or 'float16', not 'half'"),
        ({"warmup": -1}, "warmup must be at least 0, not -1"),
        ({"workers": -1}, "workers must be at least 0, not -1"),
        ({"seed": -1}, r"seed must lie in \[0, \d+\], not -1"),
        ({"lr": -0.1}, r"lr must be 0 or more, and finite, not -0\.1"),
        ({"lr": math.inf}, "lr must be 0 or more, and finite, not inf"),
        ({"weight_decay": math.nan}, "weight_decay must be 0 or more, and finite, not nan"),
        ({"bias_lr_factor": -1.0}, r"bias_lr_factor must be 0 or more, and finite, not -1\.0"),
        (
            {"bias_weight_decay": -1.0},
            r"bias_weight_decay must be 0 or more, and finite, not -1\.0",
        ),
        ({"clip_norm": 0.0}, r"clip_norm must be above 0, or None, not 0\.0"),
        ({"clip_norm": math.nan}, "clip_norm must be above 0, or None, not nan"),
        (
            {"milestones": (80_000, 100_000)},
            r"milestones \(fractions of the steps\) must lie in .*, not 80000\.0",
        ),
        (
            {"milestones": (math.nan,)},
            r"milestones \(fractions of the steps\) must lie in \[0, 1\], not nan",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused(options, message):
    with refuses(message):
        train(**({"model": small(), "dataset": Squares(), "steps": 1, "progress": False} | options))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_frozen_trunk_stays_bit_for_bit_and_the_rest_learns(optimizer):
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = Settings(steps=2, batch_size=2, lr=1e-2, optimizer=optimizer, freeze="trunk")
    train(model, Squares(4), settings, progress=False)
    after = model.state_dict().items()
    moved = {name for name, value in after if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {
        "extras",
        "localization_heads",
        "confidence_heads",
    }
    assert any(name.startswith("trunk.") and "running_mean" in name for name in before)
