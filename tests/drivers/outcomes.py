"""Writes what became of each test, one a line: `passed ID`."""

import os

WORST = ("failed", "skipped", "passed")
outcomes = {}


def pytest_runtest_logreport(report):
    before = outcomes.get(report.nodeid, "passed")
    outcomes[report.nodeid] = min(before, report.outcome, key=WORST.index)


def pytest_collectreport(report):
    if report.failed:
        outcomes[report.nodeid] = "failed"


def pytest_sessionfinish():
    with open(os.environ["OUTCOMES"], "w") as file:
        for test, outcome in sorted(outcomes.items()):
            print(outcome, test, file=file)
