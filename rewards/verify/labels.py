"""What a tree says beyond its value: the name on the left of "=", the two signs of ±, whether it has symbols."""

from __future__ import annotations

from .tree import Node, Num, Op, Sym


def without_plus_minus(node: Node) -> list[Node]:
    """The two readings of ±, correlated within an expression: (1 ± a)/(1 ∓ a) is two values."""
    if not contains_plus_minus(node):
        return [node]
    return [_signed(node, 1), _signed(node, -1)]


def contains_plus_minus(node: Node) -> bool:
    if node.__class__ is not Op or node.head in ("list", "or", "set", "tuple", "bracket", "relation"):
        return False
    return node.head in ("pm", "mp") or any(contains_plus_minus(a) for a in node.args)


def _signed(node: Node, sign: int) -> Node:
    if node.__class__ is not Op:
        return node
    args = tuple(_signed(a, sign) for a in node.args)
    if node.head in ("pm", "mp"):
        negative = (sign < 0) == (node.head == "pm")
        last: Node = Op("neg", (args[-1],)) if negative else args[-1]
        return last if len(args) == 1 else Op("add", (args[0], last))
    return Op(node.head, args)


def label(node: Node) -> str | None:
    """The name on the left of "name = value": a symbol, f(x), (x, y), |AB|, AB, ∠ABC, S:T; None for an expression."""
    if node.__class__ is Sym:
        return None if node.name in ("pi", "e", "inf", "i", "emptyset") else node.name
    if node.__class__ is Num:
        return None
    assert isinstance(node, Op)
    if node.head in ("apply", "apply1"):
        inner = [a.name if isinstance(a, Sym) else str(a.value) if isinstance(a, Num) else None for a in node.args]
        return None if None in inner else f"{inner[0]}({','.join(inner[1:])})"  # type: ignore[arg-type]
    if node.head == "tuple":
        names = [label(a) for a in node.args]
        return None if None in names else f"({','.join(names)})"  # type: ignore[arg-type]
    if node.head == "mul" and node.args[0].__class__ is Op and node.args[0].head == "pow":
        base, exponent = node.args[0].args  # f^{-1}(x)
        if base.__class__ is Sym and node.args[1].__class__ is Sym and exponent == Op("neg", (Num(1, "1"),)):
            return f"{base.name}^-1({node.args[1].name})"
        return None
    if node.head == "div":
        above, below = node.args  # dy/dx
        first, second = _differential(above), _differential(below)
        if first and second:
            return f"d{first}/d{second}"
    if node.head == "mul":
        name = "".join(label(a) or "?" for a in node.args)
        return name if all(c.isupper() or c.isdigit() or c == "_" for c in name.replace("angle", "")) else None
    if node.head in ("abs", "ratio", "div"):
        parts = [label(a) or "" for a in node.args]
        return (
            f"{node.head}({','.join(parts)})"
            if all(p[:1].isupper() and (len(p) > 1 or node.head == "ratio") for p in parts)
            else None
        )
    return None


def _differential(node: Node) -> str | None:
    """The x of dx."""
    if node.__class__ is Op and node.head == "mul" and node.args[0] == Sym("d") and isinstance(node.args[1], Sym):
        return node.args[1].name
    return None


def has_symbols(node: Node) -> bool:
    if node.__class__ is Sym:
        return node.name not in ("pi", "e", "i")
    return node.__class__ is Op and any(has_symbols(a) for a in node.args)


def is_matrix(node: Node) -> bool:
    return node.__class__ is Op and (
        node.head == "matrix" or (node.head in ("neg", "mul") and any(is_matrix(a) for a in node.args))
    )
