"""The build backend of pyproject.toml: `pip install .` ends with a line that says what to do."""

import sys

sys.exit("SyNCRec is not an installable package: clone the repository and run bash train.sh")
