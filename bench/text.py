"""Cells of the readable tables, and the tables themselves, in Markdown."""


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def percent(value: float, half: float, *, sign: str = "", digits: int = 2) -> str:
    """A fraction and half the width of its interval; ``sign`` "+" for differences."""
    return f"{100 * value:{sign}.{digits}f} ± {100 * half:.{digits}f}"
