"""Plans as text."""

from collections.abc import Sequence

from research.plan.estimate import Plan


def size(count: float | None) -> str:
    """`1.64 GiB`; `unknown` for None."""
    if count is None:
        return "unknown"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            break
        count, unit = count / 1024, "TiB"
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"


def amount(count: float | None, unit: str) -> str:
    """`1.51 PFLOP`; `unknown` for None."""
    if count is None:
        return "unknown"
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if abs(count) < 1000 or prefix == "E":
            return f"{count:.2f} {prefix}{unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float | None) -> str:
    """`12.30 ms`, `4.50 h`; `unknown` for None."""
    if seconds is None:
        return "unknown"
    for unit, length in (("h", 3600), ("s", 1), ("ms", 1e-3)):
        if seconds >= length:
            return f"{seconds / length:.2f} {unit}"
    return f"{seconds * 1e6:.2f} us"


def mesh_text(mesh: dict[str, int]) -> str:
    """`data=16 fsdp=16`, without the axes of size 1."""
    return " ".join(f"{axis}={length}" for axis, length in mesh.items() if length > 1) or "one device"


def table(plan: Plan) -> str:
    """The plan as a table, one figure per line."""
    share = f" ({plan.peak_bytes / plan.hbm_bytes:.0%})"
    indicative = "" if plan.memory_is_real else "  (indicative: compiled for virtual CPU devices)"
    verdict = ("fits" if plan.fits else "does not fit") + indicative
    rows = [
        ("config", plan.config),
        ("slice", f"{plan.topology}, {plan.chips} chips"),
        ("mesh", mesh_text(plan.mesh)),
        ("remat, microbatches, batch", f"{plan.remat or '-'}, {plan.microbatches}, {plan.batch_size}"),
        ("parameters", amount(plan.num_params, "")),
        ("", ""),
        ("memory of a device", verdict),
        ("  parameters", size(plan.params_bytes)),
        ("  optimizer state", size(plan.optimizer_bytes)),
        ("  average (EMA)", size(plan.ema_bytes)),
        ("  temporaries", size(plan.temp_bytes)),
        ("  peak of HBM", f"{size(plan.peak_bytes)} of {size(plan.hbm_bytes)}{share}"),
        ("", ""),
        ("a step, all chips", ""),
        ("  model FLOPs", amount(plan.model_flops, "FLOP")),
        ("  hardware FLOPs", f"{amount(plan.hardware_flops, 'FLOP')} ({plan.hardware_flops / plan.model_flops:.3f} x)"),
        *_collectives(plan),
        *_times(plan),
    ]
    return "\n".join(f"{name:28} {value}".rstrip() for name, value in rows)


def _collectives(plan: Plan) -> list[tuple[str, str]]:
    rows = [("", ""), ("links, into one device", "")]
    if plan.collective_bytes is None or plan.collective_bytes_by_axis is None:
        return [*rows, ("  analytic lower bound", size(plan.collective_lower_bound_bytes))]
    total, bound = sum(plan.collective_bytes.values()), plan.collective_lower_bound_bytes
    rows += [(f"  {kind}", size(count)) for kind, count in plan.collective_bytes.items()]
    rows += [(f"  over {axes}", size(count)) for axes, count in plan.collective_bytes_by_axis.items()]
    rows.append(("  analytic lower bound", size(bound) + (f" (reached {total / bound:.2f} x)" if bound else "")))
    if plan.uncertain_collectives:
        rows.append(("  counted once", f"{plan.uncertain_collectives} in loops whose length depends on the data"))
    return rows


def _times(plan: Plan) -> list[tuple[str, str]]:
    if plan.step_time_s is None or plan.run_hours is None or plan.chip_hours is None:
        return []
    return [
        ("", ""),
        ("a step, at least", f"{duration(plan.step_time_s)}, bound by {plan.bound_by}"),
        ("  compute", duration(plan.compute_s)),
        ("  HBM", duration(plan.hbm_s)),
        ("  links", duration(plan.links_s)),
        ("  MFU at most", "unknown" if plan.mfu is None else f"{plan.mfu:.1%}"),
        ("the run, at least", f"{duration(plan.run_hours * 3600)}, {plan.chip_hours:.1f} chip-hours"),
    ]


def ranking(plans: Sequence[Plan]) -> str:
    """Plans of one config and slice as a table, best first, one per line."""
    lines = [f"{'mesh':32} {'remat':8} {'parts':>5} {'peak':>10} {'step':>10} {'MFU':>6}  verdict"]
    for plan in plans:
        mfu = "-" if plan.mfu is None else f"{plan.mfu:.1%}"
        verdict = ("fits, bound by " + plan.bound_by) if plan.fits and plan.bound_by else "does not fit"
        lines.append(
            f"{mesh_text(plan.mesh):32} {plan.remat or '-':8} {plan.microbatches:5} {size(plan.peak_bytes):>10} "
            f"{duration(plan.step_time_s):>10} {mfu:>6}  {verdict}"
        )
    return "\n".join(lines)
