"""Command lines of a bapo that is broken in one place, for processes that import them by name."""

from bapo.adaptation import Adaptation
from bapo.cli import main
from bapo.training import run


def without_buffers():
    """A resumed run forgets what was in its buffers."""
    Adaptation.load_state_dict = lambda self, state: None
    main()


def without_refusal():
    """A run whose checkpoint cannot be written goes on without it."""
    save = run.Run._save_checkpoint

    def careless(self):
        try:
            save(self)
        except OSError:
            self.saved = self.loop.step

    run.Run._save_checkpoint = careless
    main()
