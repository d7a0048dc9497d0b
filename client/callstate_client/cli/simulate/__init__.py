"""Realistic calls, played against a store: demo, load generator and smoke test in one.

`callstate simulate` and `examples/demo.py` use it.

    async with connect() as store:
        simulation = Simulation(store, Traffic(calls=200, rate=40, seed=1, die=0.05), speed=30)
        await simulation.run()
        print(simulation.report())
"""

from callstate_client.cli.simulate.ledger import Comparison, Ledger, turn_numbers
from callstate_client.cli.simulate.runner import DaemonUnreachableError, Simulation
from callstate_client.cli.simulate.scenario import CallScript, Traffic
from callstate_client.cli.simulate.tally import Tally

__all__ = [
    "CallScript",
    "Comparison",
    "DaemonUnreachableError",
    "Ledger",
    "Simulation",
    "Tally",
    "Traffic",
    "turn_numbers",
]
