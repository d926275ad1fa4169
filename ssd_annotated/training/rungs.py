"""Rungs: what a confidence loss says about what the network knows.

A network that knows nothing, one that knows how frequent things are but never looks, and one that
sees where objects are but not what they are: the loss of all three is known before the first step.
The chapter *The full run* derives them. A training that fails stays on the second.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Int64
from torch import Tensor

from ssd_annotated.training import distributed
from ssd_annotated.training.train import Trainer

MARGIN = 0.05  # how far below a rung the loss must be to have passed it
WINDOW = 100  # steps to average over
FOUND = 0.2  # an mAP that is out of reach without looking
PATIENCE = 400  # steps after which a network should have begun to look

ADVICE = (
    "look at the boxes and at what `check` says of them; smaller priors (`fit_priors`), an "
    "augmentation that does not shrink (`gentle`), larger images, more steps"
)


class Rungs(NamedTuple):
    """The confidence loss for each positive of a network that knows no more than the name says."""

    nothing: float
    proportions: float
    where: float


class Standing(NamedTuple):
    """A confidence loss, averaged over some steps, and the rungs that it is to be compared with."""

    loss: float
    rungs: Rungs

    @property
    def passed(self) -> int:
        """How many rungs the loss has passed, from 0 to 3."""
        return sum(self.loss < rung - MARGIN for rung in self.rungs)

    def __str__(self) -> str:
        rung = self.rungs[(0, 1, 1, 2)[self.passed]]
        words = (
            f"the network knows nothing yet (that costs {rung:.2f})",
            f"no better than answering without looking (knowing the proportions costs {rung:.2f})",
            f"the network looks (below {rung:.2f}, which is knowing the proportions)",
            f"the network tells classes apart (below {rung:.2f}, which is seeing only where)",
        )
        return f"confidence loss {self.loss:.2f}: {words[self.passed]}"

    @property
    def expectation(self) -> str:
        """What to expect of the mAP from here on."""
        if self.passed < 2:
            return f"expect more once the confidence loss is below {self.rungs.proportions:.2f}"
        if self.passed == 2:
            where = self.rungs.where  # 0 if there is one class
            further = f", below {where:.2f} above all" if where > MARGIN else ""
            return f"expect more as the confidence loss falls{further}"
        return "it finds and names: expect smaller steps from now on"


def find_rungs(positives: Int64[Tensor, "C"], ratio: float = 3.0) -> Rungs:
    """(1 + r) ln C, then H + ln(1 + r) + r ln(1 + 1/r), then H, for r negatives a positive.

    H is the entropy of the classes among the `positives`, counted by class: ln(C − 1) if all are
    equally frequent. At r = 3 the first two are 4 ln C and, then, ln 4(C − 1) + 3 ln 4/3.
    """
    shares = [count / int(positives.sum()) for count in positives.tolist() if count]
    naming = sum(-share * math.log(share) for share in shares)
    finding = math.log1p(ratio) + (ratio * math.log1p(1 / ratio) if ratio else 0)
    return Rungs((1 + ratio) * math.log(len(positives)), naming + finding, naming)


def finds(best: float | None) -> bool:
    """Whether an mAP says that a network finds something, whatever its loss."""
    return best is not None and best >= FOUND


class Ladder:
    """Follows the confidence loss of a training down the rungs.

    Attributes
    ----------
    standing
        As of the last time that a hundred steps were complete; None before, and for a loss that
        has no such rungs.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.standing: Standing | None = None
        self._trainer, self._losses = trainer, deque(maxlen=WINDOW)
        self._passed, self._warned = -1, False
        self._patience = max(PATIENCE, trainer.settings.steps // 50)

    def add(self, record: Mapping[str, int | float], best: float | None) -> str | None:
        """Take a step's record and the best mAP so far; return what is worth saying, if anything.

        Mining looks for the worst negatives, so a network that has begun to look can still pay as
        much as one that does not: where an mAP is known, it decides.
        """
        loss = self._trainer.loss
        self._losses.append(record["confidence"])
        done = record["step"] + 1
        if (loss.confidence, loss.normalize) != ("cross_entropy", "positives") or done % WINDOW:
            return None
        counts = distributed.total(self._trainer.positives.to(loss.priors.device))
        rungs = find_rungs(counts, loss.negatives_per_positive)
        self.standing = Standing(sum(self._losses) / len(self._losses), rungs)
        late = done >= self._patience and not self._warned
        if late and self.standing.passed < 2 and not finds(best):
            self._warned, self._passed = True, self.standing.passed
            return f"warning: after {done} steps, {self.standing}. Try: {ADVICE}"
        if self.standing.passed <= self._passed:
            return None
        self._passed = self.standing.passed
        return f"step {done}: {self.standing}"
