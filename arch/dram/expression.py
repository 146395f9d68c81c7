"""Latency expressions: integers, timing names, ``+ - *``, ``/`` (rounded up), ``max`` and ``min``."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping


def names_in(expression: str) -> set[str]:
    """Timing names an expression uses.

    >>> sorted(names_in("nCL + nBL + 2 - nCWL"))
    ['nBL', 'nCL', 'nCWL']
    """
    tree = _parse(expression)
    functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in functions}


def evaluate(expression: str, values: Mapping[str, int]) -> int:
    """Value of a latency expression.

    Raises:
        ValueError: not an expression of the allowed form, or a name without value.

    >>> evaluate("nCL + nBL + 2 - nCWL", {"nCL": 16, "nBL": 4, "nCWL": 12})
    10
    """
    return _value(_parse(expression), values)


def _parse(expression: str) -> ast.expr:
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(f"'{expression.strip()}' is not a latency expression") from None


def _value(node: ast.expr, values: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            if name not in values:
                raise ValueError(f"timing '{name}' has no value")
            return values[name]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, values) + _value(right, values)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, values) - _value(right, values)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, values) * _value(right, values)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            divisor = _value(right, values)
            if divisor == 0:
                raise ValueError(f"'{ast.unparse(node)}' divides by zero")
            return math.ceil(_value(left, values) / divisor)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, values)
        case ast.Call(func=ast.Name(id="max" | "min" as function), args=args, keywords=[]) if args:
            numbers = [_value(argument, values) for argument in args]
            return max(numbers) if function == "max" else min(numbers)
    raise ValueError(f"'{ast.unparse(node)}' is not allowed in a latency expression")
