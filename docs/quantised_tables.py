"""Tables of what quantising costs."""

from __future__ import annotations

from records import about, link, percent, raw, table

RECORD = "quantised-resnet20-qcfs4.json"


def quantised() -> str:
    """Accuracy before and after, and the runs that differ between kernels, threads and instruction sets."""
    record = raw(RECORD)
    rows, lines = [], []
    for row in record["rows"]:
        before, after = row["float"], row["quantised"]
        for t, top1 in after["top1"].items():
            was = before["top1"][t]
            rows.append((f"`{row['schedule']}`", t, percent(was), percent(top1), f"{top1 - was:+.2f}"))
        if "equality" in before:
            runs = before["equality"]["runs"]
            lines.append(
                f"* `{row['schedule']}`, {record['equality_images']} images, {runs} runs with other kernels, numbers of "
                f"threads and instruction sets: {_differing(before['equality'])} in float32, "
                f"{_differing(after['equality'])} quantised."
            )
    first = record["rows"][0]
    ann = f"ANN {percent(first['float']['ann'])} and {percent(first['quantised']['ann'])} %"
    sizes = f"files of {first['float']['bytes']:,} and {first['quantised']['bytes']:,} bytes"
    note = f"{record['images']:,} test images of CIFAR-10; {ann}; {sizes}. {about(record)} {link(RECORD)}"
    head = ("schedule", "T", "float32", f"int{record['quantise']['bits']}", "change")
    return table(head, rows, left=1) + "\n" + "\n".join(lines) + "\n\n" + note + "\n"


def _differing(found: dict[str, int]) -> str:
    return f"{found['other_answers']} other answers and {found['other_events']} other counts of events"
