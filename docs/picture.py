"""The picture of the README: GPU time per step against TP degree, from two ``scale`` answers.

``python docs/generate.py`` writes it to docs/picture.svg. No font, script or image from elsewhere.
"""

from __future__ import annotations

from html import escape

import meshwise as mw

WIDTH, HEIGHT = 860, 350
COMPUTE, COMM, HOST = "#4c78a8", "#e4572e", "#9aa5b1"
INK, DIM = "#24292f", "#57606a"


def _text(x: float, y: float, words: str, size: int = 12, ink: str = INK, extra: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{ink}" {extra}>{escape(words)}</text>'


def panel(left: int, title: str, below: str, answer: mw.api.ScaleResult) -> list[str]:  # type: ignore[name-defined]
    """Stacked bars of N·T(N)/T(1): what the same work costs in GPU time."""
    top, bottom, width = 74, 262, 380
    after = [p.tp for p in answer.points if p.tp > answer.limit.tp][
        :1
    ]  # one degree beyond the limit
    points = [p for p in answer.points if p.tp <= max([answer.limit.tp, *after])]
    most = max(1 / p.efficiency for p in points)
    scale = (bottom - top) / most
    step = width / len(points)
    parts = [_text(left, 26, title, 14, extra='font-weight="600"'), _text(left, 44, below, 11, DIM)]
    unit = bottom - scale
    parts.append(
        f'<line x1="{left}" x2="{left + width}" y1="{unit:.1f}" y2="{unit:.1f}" stroke="{DIM}" '
        'stroke-dasharray="4 3" stroke-width="1"/>'
    )
    for i, p in enumerate(points):
        x = left + i * step + step * 0.16
        w = step * 0.68
        y = float(bottom)
        for seconds, fill in (
            (p.compute_s, COMPUTE),
            (p.host_s + p.bubble_s, HOST),
            (p.exposed_comm_s, COMM),
        ):
            h = seconds * p.tp / points[0].step_s * scale
            if h > 0:
                y -= h
                parts.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}"/>'
                )
        parts.append(
            _text(x + w / 2, y - 5, f"{p.efficiency:.0%}", 11, extra='text-anchor="middle"')
        )
        best = p.tp == answer.limit.tp
        weight = 'text-anchor="middle"' + (' font-weight="700"' if best else "")
        parts.append(_text(x + w / 2, bottom + 17, f"TP={p.tp}", 11, extra=weight))
        if best:
            parts.append(_text(x + w / 2, bottom + 32, "limit", 11, COMM, 'text-anchor="middle"'))
    parts.append(
        f'<line x1="{left}" x2="{left + width}" y1="{bottom}" y2="{bottom}" stroke="{INK}"/>'
    )
    return parts


def picture() -> str:
    training = mw.scale(
        mw.model("gpt3-175b"), mw.cluster("dgx-a100"), mw.Training(batch=32, seq=2048)
    )
    decode = mw.scale(
        mw.model("llama-3.1-70b"), mw.cluster("hgx-h100"), mw.Decode(batch=32, context=4096)
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" role="img" '
        'aria-label="GPU time per step by TP degree, split into compute and exposed communication">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *panel(24, "Training step, GPT-3 175B", "DGX A100, batch 32 × 2,048 tokens", training),
        *panel(456, "Decode step, Llama 3.1 70B", "HGX H100, 32 sequences, context 4,096", decode),
    ]
    x = 24.0
    for fill, words in (
        (COMPUTE, "compute"),
        (COMM, "communication that nothing hides"),
    ):
        parts.append(f'<rect x="{x}" y="306" width="12" height="12" fill="{fill}"/>')
        parts.append(_text(x + 18, 316, words, 12, DIM))
        x += 40 + 6.6 * len(words)
    words = (
        "Height: GPU time for the same work; the dashed line is TP=1. Figure on top: efficiency."
    )
    parts.append(_text(24, 338, words, 12, DIM))
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    print(picture())
