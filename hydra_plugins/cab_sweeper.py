"""The sweeper of `cab.run -m`: Hydra's own, which hands the launcher those cells only that are not done (cab.pending).

The folder has to be called hydra_plugins: Hydra takes sweepers from nowhere else.
"""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig


class PendingSweeper(BasicSweeper):
    """Options as those of Hydra's: `params`, and `max_batch_size` cells handed over at once."""

    def sweep(self, arguments: list[str]) -> Any:
        from cab.pending import pending

        assert self.hydra_context is not None
        assert self.launcher is not None
        loader, master = self.hydra_context.config_loader, self.config

        def compose(overrides: Sequence[str]) -> DictConfig:
            assert master is not None
            return loader.load_sweep_config(master, list(overrides))

        parsed = OverridesParser.create(loader).parse_overrides([*self._parse_config(), *arguments])
        [cells] = self.split_arguments(parsed, None)
        left = pending(cells, compose)
        returns, first = [], 0
        for batch in self.split_overrides_to_chunks(left, self.max_batch_size) if left else []:
            returns.append(self.launcher.launch(batch, initial_job_idx=first))
            first += len(batch)
        for returned in (one for batch in returns for one in batch):
            _ = returned.return_value  # raises what ended the job
        return returns
