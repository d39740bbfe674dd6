"""How far a job is: stage weights per job type, folded into one number that never goes back.

A step's progress is `load` once, then the mean over its items of their own progress; an item goes
through `sampling`, `decode` and `upload`. The weights are shares of typical wall time on a GPU
(SDXL, 30 steps); they need not be exact, only stable, documented and in sum 1.
"""

from dataclasses import dataclass, field

STAGES: dict[str, tuple[tuple[str, float], ...]] = {
    "generate": (("load", 0.10), ("sampling", 0.75), ("decode", 0.10), ("upload", 0.05)),
    "upscale": (("load", 0.10), ("sampling", 0.70), ("decode", 0.10), ("upload", 0.10)),
}


# A step of another release, whose stages are not known here.
UNKNOWN = (("run", 1.0),)


@dataclass(slots=True)
class StepProgress:
    """Progress of one step, fed by its runner's frames and its uploads; one per attempt."""

    type: str
    count: int
    done: set[int] = field(default_factory=set)
    loaded: float = 0.0
    items: dict[int, float] = field(default_factory=dict)

    def advance(self, stage: str, *, item_index: int | None, fraction: float) -> None:
        """`fraction` 0..1 of `stage` is done, of the load or of one item."""
        if stage == "load" or item_index is None:
            self.loaded = max(self.loaded, fraction)
            return
        self.loaded = 1.0
        if item_index not in self.done:
            before = self.items.get(item_index, 0.0)
            self.items[item_index] = max(before, self._within_item(stage, fraction))

    def stored(self, item_index: int) -> None:
        """The item's artifact row exists."""
        self.done.add(item_index)
        self.items.pop(item_index, None)

    def item(self, index: int) -> float:
        return 1.0 if index in self.done else self.items.get(index, 0.0)

    @property
    def total(self) -> float:
        if len(self.done) == self.count:
            return 1.0
        load_weight = STAGES[self.type][0][1]
        mean = (len(self.done) + sum(self.items.values())) / self.count
        return load_weight * (1.0 if self.done else self.loaded) + (1 - load_weight) * mean

    def _within_item(self, stage: str, fraction: float) -> float:
        weights = STAGES[self.type][1:]
        before = 0.0
        for name, weight in weights:
            if name == stage:
                return (before + weight * fraction) / sum(w for _, w in weights)
            before += weight
        raise ValueError(f"{self.type} has no stage {stage!r}")
