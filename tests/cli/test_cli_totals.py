"""What is said when sampling is done: a line, and a table by layer."""

import io
from dataclasses import replace

from raygen.cli.display import Display
from raygen.cli.reports import show_farm, show_samples
from raygen.cli.tables import totals_table
from raygen.runs import FarmReport, Totals
from raygen.sampling import UnitProgress
from raygen.stages import Sampled
from raygen.store import Run, Unit

CONV = Totals(units=2, samples=16, gradients=1200, nodes=4, converged=3, rates=1.5, rated=2)
DEAD = Totals(units=1, samples=4, gradients=0, nodes=2, dead=2)


def test_the_table_has_a_line_for_each_layer() -> None:
    lines = [line.split() for line in totals_table({"conv1": CONV, "ip1": DEAD}).splitlines()]
    assert lines == [
        ["layer", "units", "nodes", "converged", "samples", "gradients", "acceptance"],
        ["conv1", "2", "4", "3", "16", "1,200", "0.75"],
        ["ip1", "1", "2", "0", "4", "0", "-"],
    ]


def test_the_end_of_a_run_is_shown_with_its_totals(tmp_path) -> None:
    run = Run.begin(str(tmp_path), {}, [Unit("u", "conv1", ("conv1:0",), 1)], about={})
    report = FarmReport(5, 2, {"conv1": CONV, "ip1": DEAD}, (), 0, {}, 61.0)
    stream = io.StringIO()
    show_samples(Display(stream), Sampled(run, report))
    said = stream.getvalue().splitlines()
    assert said[0] == "sample: 2 of 5 units were there already"
    assert said[1] == "sample: 20 samples of 6 nodes in 1 min 1 s, 1,200 gradients, 3 nodes converged"
    assert said[2].startswith("sample: 2 of these nodes are constant or dead")
    assert said[3:6] == totals_table(report.layers).splitlines()
    assert said[6].startswith("not converged: 1 of 6 nodes")


def test_a_run_whose_living_nodes_have_all_converged_says_nothing_of_convergence(tmp_path) -> None:
    run = Run.begin(str(tmp_path), {}, [Unit("u", "conv1", ("conv1:0",), 1)], about={})
    conv = replace(CONV, converged=4)
    stream = io.StringIO()
    show_samples(Display(stream), Sampled(run, FarmReport(3, 0, {"conv1": conv, "ip1": DEAD}, (), 0, {}, 61.0)))
    assert "not converged" not in stream.getvalue()


def test_actors_that_wait_and_units_set_aside_are_shown_while_it_runs() -> None:
    stream = io.StringIO()
    running = (UnitProgress(0.5, 0.9),)
    show_farm(Display(stream), FarmReport(4, 0, {}, running, 3, {"u": "it fails"}, 2.0, lost=1, pending=2))
    assert "3 actors (2 of them waiting for a machine or starting), 1 set aside" in stream.getvalue()
