"""Reports how far one step is, as it moves."""

from shared.progress import StepProgress
from shared.step_store import Claim
from supervisor.recording.event_recorder import EventRecorder
from supervisor.recording.timeline import Timeline


class ProgressReporter:
    """Folds a runner's frames and its uploads into the step's progress, and records it."""

    def __init__(self, claim: Claim, recorder: EventRecorder, timeline: Timeline) -> None:
        self._progress = StepProgress(claim.type, claim.count, done=set(claim.done_items))
        self._recorder = recorder
        self._timeline = timeline

    def advance(self, stage: str, item_index: int | None, step: int, steps: int) -> None:
        """`step` of `steps` of a stage is done, of one item or of the load."""
        self._timeline.record_stage(stage, item_index, done=step >= steps)
        self._progress.advance(stage, item_index=item_index, fraction=step / steps)
        self._recorder.record_progress(
            self._progress,
            stage=stage,
            item_index=item_index,
            item_progress=None if item_index is None else round(self._progress.item(item_index), 4),
            step=step,
            steps=steps,
        )

    def mark_stored(self, item_index: int) -> None:
        """The item's artifact has its row."""
        self._progress.stored(item_index)
        self.advance("upload", item_index, 1, 1)
