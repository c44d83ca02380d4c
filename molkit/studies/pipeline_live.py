"""A pipeline as a page runs it: in a folder that is gone afterwards."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from molkit.farm.engines import engine
from molkit.pipeline.journey import PipelineSettings
from molkit.pipeline.run import PipelineResult, run_pipeline


def from_noise(
    count: int, *, settings: PipelineSettings, sizes: Sequence[int] = (), workers: int = 1
) -> PipelineResult:
    """`count` molecules from noise to electrons in `workers` processes. Raises what `run_pipeline` raises."""
    with TemporaryDirectory() as folder, engine(workers, apart=True) as executor:
        return run_pipeline(count, Path(folder), sizes=sizes, settings=settings, executor=executor)
