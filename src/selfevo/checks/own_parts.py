"""Makes the parts of a configuration that are yours, as a run would, so that a mistake in one is found before it."""

from __future__ import annotations

from selfevo.config.base import OwnPart
from selfevo.config.own_parts import part_files
from selfevo.config.run_config import RunConfig
from selfevo.config.sources import FileCorpus
from selfevo.inputs.splits import Splits
from selfevo.method.names import round_name
from selfevo.pipeline.build import build_engine, build_filters, build_objective, build_teacher, build_trainer


def make_own_parts(config: RunConfig, splits: Splits) -> list[str]:
    """The names of the parts. Raises ConfigError if one cannot be made. Tasks were made when the splits were drawn."""
    names = list(part_files(config))
    build_filters(config)
    if isinstance(config.engine, OwnPart):
        build_engine(config.engine.model_copy(update={"workers": 0})).release()
    if isinstance(config.objective, OwnPart) and hasattr(build_objective(config), "trainer"):
        build_trainer(config, round_name(1))
    corpus = config.corpus
    if corpus and not isinstance(corpus, FileCorpus) and isinstance(corpus.annotator, OwnPart):
        build_teacher(corpus, {problem.prompt.id: problem for problem in splits.labelled}, wording=config.wording)
    return names
