"""What describing hardware costs to import."""

from __future__ import annotations

import subprocess
import sys


def test_descriptions_do_not_import_numba() -> None:
    code = (
        "import sys, neardata, neardata.arch, neardata.arch.dram as dram\n"
        "dram.load_mapping(dram.load_device('ddr4-2400r'))\n"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
