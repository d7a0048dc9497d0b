"""`python -m callstate_client.cli`, where the `callstate` script is not on the path."""

import sys

from callstate_client.cli import main

sys.exit(main())
