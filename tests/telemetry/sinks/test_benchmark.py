"""
The benchmark of the sinks.
"""

from benchmarks.telemetry import sinks


def test_it_measures_each_sink(capsys):
    """Each sink has a line, with what it does of Arrow's rows in a second."""
    sinks.measure(["arrow", "sqlite"], 100, 0.02, 1)
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [["arrow", "100", "1.000"], ["sqlite", "100"]] == [
        cells[0][:3],
        cells[1][:2],
    ]
    assert all(float(row[2]) > 0 for row in cells)
