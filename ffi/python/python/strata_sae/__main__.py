"""`python -m strata_sae` is the command `strata`."""
import sys

from ._command import main

sys.exit(main())
