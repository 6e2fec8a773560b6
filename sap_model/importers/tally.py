"""What an import took, what it left out and why, and what was done to the pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.annotations.sizes import SIZES
from pipeline.errors import UserError

SHOWN = 20
"""Lines of what was skipped that are printed; import.json lists them all."""


OR_SKIP = ", or import the rest with SKIP_BAD=1"


@dataclass
class Tally:
    """Counts of one import.

    Attributes:
        skip_bad: Leave out what is damaged and note it, instead of refusing all.
        panoramas, instances: What was taken.
        sizes: Instances by size.
        left_out: Annotations that were left out, by reason.
        skipped: What was left out because it is damaged, in words that name it.
        notes: What was done to pictures and masks: how many by kind, and the first of each.
    """

    skip_bad: bool = False
    panoramas: int = 0
    instances: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    notes: dict[str, tuple[int, str]] = field(default_factory=dict)

    def bad(self, message: str, annotations: int = 0) -> None:
        """Note what is damaged, or end the import.

        Args:
            message: What is damaged, and what to do.
            annotations: How many are left out because of it.

        Raises:
            UserError: Unless `skip_bad`.
        """
        if not self.skip_bad:
            raise UserError(message.removesuffix(OR_SKIP) + OR_SKIP)
        self.skipped.append(message)
        self.leave_out("damaged", annotations)

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count annotations that are left out."""
        if count:
            self.left_out[reason] += count

    def note(self, where: str, text: str) -> None:
        """Note something of the form "kind: details" about a file."""
        kind, _, details = text.partition(": ")
        count, first = self.notes.get(kind, (0, f"{where}: {details}"))
        self.notes[kind] = count + 1, first

    def lines(self) -> list[str]:
        """The summary, for a person."""
        counts = {"panoramas": self.panoramas, "instances": self.instances}
        counts |= {size: self.sizes[size] for size in SIZES}
        counts["left out"] = self.left_out.total()
        lines = [", ".join(f"{count} {name}" for name, count in counts.items())]
        if self.left_out:
            reasons = (f"{count} {reason}" for reason, count in self.left_out.most_common())
            lines.append(f"left out: {', '.join(reasons)}")
        lines += [f"skipped: {text}" for text in self.skipped[:SHOWN]]
        if len(self.skipped) > SHOWN:
            lines.append(f"skipped: {len(self.skipped) - SHOWN} more, listed in import.json")
        lines += [
            f"note: {kind} ({count}), first {first}" for kind, (count, first) in self.notes.items()
        ]
        return lines

    def to_json(self) -> dict[str, object]:
        """As plain JSON types, for import.json."""
        return {
            "panoramas": self.panoramas,
            "instances": self.instances,
            **{size: self.sizes[size] for size in SIZES},
            "left_out": dict(self.left_out),
            "skipped": self.skipped,
            "notes": {kind: list(about) for kind, about in self.notes.items()},
        }
