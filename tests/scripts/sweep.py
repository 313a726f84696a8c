"""``lightning-sparse sweep`` whose cells are forks of this process: they need not import PyTorch again."""

import os
import sys
import traceback

from lightning_sparse.cli.commands import sweep
from lightning_sparse.cli.main import main
from lightning_sparse.experiments.folders import CellFolder
from lightning_sparse.experiments.running import run_all


def fork(job, words, lock):
    """Run a cell in a fork, with its output in its log."""
    sys.stdout.flush()
    if (child := os.fork()) != 0:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        with CellFolder(job.folder).log.open("ab") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        main(["fit", *words])
        status = 0
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sweep.run_all = lambda jobs, retry: run_all(jobs, retry, fork)
    words, sys.argv = sys.argv[1:], sys.argv[:1]
    main(["sweep", *words])
