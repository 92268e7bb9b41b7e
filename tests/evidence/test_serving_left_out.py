"""Constants of the engines, chosen without a cell: on two made-up cells whose right value is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from meshwise.evidence import predict_serving
from meshwise.evidence.tables import parse_table

TOOLS = Path(__file__).parents[2] / "tools"
COLUMNS = "id,model,device,devices,tp,engine,engine_version,isl,osl,concurrency,tpot_ms"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    import serving_left_out

    return serving_left_out


def table(path: Path, host_s: float) -> Path:
    """Rows of two devices as vLLM 0.12 would have them with so much work of its host in an iteration."""
    lines = [COLUMNS]
    for source, device in (("a", "h100-80gb-sxm"), ("b", "b200-180gb-sxm")):
        for n in ("4", "8", "16"):
            cells = [f"{source}/{n}", "llama-3.1-8b", device, "1", "1", "vllm", "0.12.0"]
            asked = ",".join([*cells, "500", "300", n, "20"])
            (row,) = parse_table(f"{COLUMNS}\n{asked}\n", "table.csv").rows
            (found,) = predict_serving.serving_predictions(row, path)
            measured = 1e3 * (found.predicted - 0.85e-3 + host_s)
            lines.append(",".join([*cells, "500", "300", n, f"{measured:.5f}"]))
    file = path / "serving.csv"
    file.write_text("\n".join([*lines, lines[-1]]) + "\n", encoding="utf-8")
    return file


def test_a_constant_is_chosen_by_the_other_cells(tool: Any, tmp_path: Path) -> None:
    cells = tool.sampled([table(tmp_path, 2e-3)], 2)
    assert [len(rows) for rows in cells.values()] == [2, 2]  # the last row, twice there, is one
    constant = tool.Constant("vllm", "iteration_s", (0.0, 0.85e-3, 2e-3))
    by_value = {}
    for value in constant.grid:
        with tool.priced_with({constant: value}):
            by_value[value] = {c: tool.errors_of(rows) for c, rows in cells.items()}
    choices, errors = tool.left_out(constant, by_value, lambda c: c.generation)
    assert choices == {"hopper": 2e-3, "blackwell": 2e-3}
    off = [abs(e) for cell in errors.values() for e in cell.values()]
    assert len(off) == 4 and max(off) < 2e-3
    shipped = [e for rows in cells.values() for e in tool.errors_of(rows).values()]
    assert all(e < math.log(0.95) for e in shipped)  # and nothing of the choice is left behind


def test_the_page_has_what_was_left_out(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(table(tmp_path, 2e-3)), "--rows", "1", "--constant", "vllm.iteration_s"]
    monkeypatch.setattr("sys.argv", ["serving_left_out.py", *asked])
    tool.main()
    said = capsys.readouterr().out
    assert "all choose 0.0012" in said  # the largest of its grid
    assert "| its generation | tpot_s |" in said
