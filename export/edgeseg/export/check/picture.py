"""A picture of compiled engines: which layers fused, and which datatypes flow between them. SVG, nothing to install."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from edgeseg.export.check.plan import Engine, Layer

_WIDTH, _ROW, _GAP, _TOP, _ARC = 460, 46, 12, 90, 90
_COLOURS = {"Int8": "#2e8b57", "Half": "#3b6fb6", "BFloat16": "#3b6fb6", "Float": "#c9762b"}
_OTHER = "#808080"
_LEGEND = (("Int8", "INT8"), ("Half", "FP16"), ("Float", "FP32"), ("", "other"))


def draw_engines(engines: Mapping[str, Engine]) -> str:
    """Return an SVG with one column for each engine, its layers in the order in which they run, the data between them.

    A box has the colour of the datatype that the layer reads, its right edge that of what it writes.
    """
    columns = [_draw_column(title, engine, index) for index, (title, engine) in enumerate(engines.items())]
    height = _TOP + max((len(engine.layers) for engine in engines.values()), default=0) * (_ROW + _GAP) + _GAP
    width = len(columns) * (_WIDTH + _ARC) + _GAP
    legend = "".join(
        f'<rect x="{_GAP + at * 90}" y="12" width="14" height="14" fill="{_colour(kind)}"/>'
        f'<text x="{_GAP + at * 90 + 20}" y="24">{label}</text>'
        for at, (kind, label) in enumerate(_LEGEND)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>'
        f"{legend}{''.join(columns)}</svg>\n"
    )


def _draw_column(title: str, engine: Engine, index: int) -> str:
    left = index * (_WIDTH + _ARC) + _GAP
    total = len(engine.int8_convolutions) + len(engine.float_convolutions)
    figures = (
        f"{len(engine.int8_convolutions)} of {total} convolutions in INT8, {engine.kernels} kernels, "
        f"weights {engine.weight_bytes / 1e6:.1f} MB, activations {engine.activation_bytes / 1e6:.1f} MB"
    )
    head = (
        f'<text x="{left}" y="54" font-size="16" font-weight="bold">{escape(title)}</text>'
        f'<text x="{left}" y="74">{figures}</text>'
    )
    boxes = "".join(_draw_layer(layer, left, row) for row, layer in enumerate(engine.layers))
    return head + _draw_flow(engine, left) + boxes


def _draw_layer(layer: Layer, left: int, row: int) -> str:
    y = _TOP + row * (_ROW + _GAP)
    reads, writes = (_kinds(tensor.datatype for tensor in side) for side in (layer.inputs, layer.outputs))
    shape = "×".join(map(str, layer.outputs[0].dimensions)) if layer.outputs else ""
    names = ", ".join(layer.onnx) or layer.name
    shown = names if len(names) <= 62 else names[:61] + "…"
    first, last = reads.partition("+")[0], writes.partition("+")[0]
    return (
        f"<g><title>{escape(f'{layer.name}: {names}')}</title>"
        f'<rect x="{left}" y="{y}" width="{_WIDTH}" height="{_ROW}" rx="4" fill="{_colour(first)}" fill-opacity="0.18" '
        f'stroke="{_colour(first)}"/>'
        f'<rect x="{left + _WIDTH - 8}" y="{y}" width="8" height="{_ROW}" fill="{_colour(last)}"/>'
        f'<text x="{left + 8}" y="{y + 18}" font-weight="bold">{escape(layer.kind)}</text>'
        f'<text x="{left + 110}" y="{y + 18}">{reads or "–"} → {writes or "–"} {shape}</text>'
        f'<text x="{left + 8}" y="{y + 36}" fill="#404040">{escape(shown)}</text></g>'
    )


def _draw_flow(engine: Engine, left: int) -> str:
    """Draw a line from each layer to the next reader of its outputs: straight to a neighbour, an arc past others."""
    made: dict[str, int] = {}
    lines = []
    for row, layer in enumerate(engine.layers):
        for tensor in layer.inputs:
            start = made.get(tensor.name)
            if start is None:
                continue
            colour = _colour(tensor.datatype)
            top, bottom = (_TOP + start * (_ROW + _GAP) + _ROW, _TOP + row * (_ROW + _GAP))
            if row - start == 1:
                path = f"M{left + 40} {top}V{bottom}"
            else:
                right, bend = left + _WIDTH, min(_ARC - 10, 12 + 6 * (row - start))
                path = f"M{right} {top - 10}C{right + bend} {top} {right + bend} {bottom} {right} {bottom + 10}"
            lines.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        made.update({tensor.name: row for tensor in layer.outputs})
    return "".join(lines)


def _kinds(kinds: Iterable[str]) -> str:
    return "+".join(dict.fromkeys(kinds))


def _colour(datatype: str) -> str:
    return _COLOURS.get(datatype, _OTHER)
