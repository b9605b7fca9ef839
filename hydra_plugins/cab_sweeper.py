"""The sweeper of `cab.run -m`: Hydra's own, but the launcher gets only those cells that are not done.

The folder has to be called hydra_plugins: Hydra takes sweepers from nowhere else.
"""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn


class PendingSweeper(BasicSweeper):
    """Options as those of Hydra's: `params`, and `max_batch_size` cells handed over at once."""

    def sweep(self, arguments: list[str]) -> Any:
        from cab.command import command_line, exit_codes
        from cab.pending import pending
        from cab.quality.tracker import sweep_group

        context, launcher, master = self.hydra_context, self.launcher, self.config
        assert context is not None
        assert launcher is not None
        assert master is not None
        parser = OverridesParser.create(context.config_loader)
        [cells] = self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)
        left = pending(cells, lambda overrides: context.config_loader.load_sweep_config(master, list(overrides)))
        returns: list[JobReturn] = []

        def launch() -> int:
            size = self.max_batch_size or max(1, len(left))
            for first in range(0, len(left), size):
                returns.extend(launcher.launch(left[first : first + size], initial_job_idx=first))
            return 0

        with sweep_group(arguments, master.hydra.runtime.choices.get("experiment")):
            exit_codes.append(command_line(launch))
        for returned in returns:
            _ = returned.return_value  # raises what ended the job
        return returns
