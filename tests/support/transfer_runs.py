"""The runs of a negative-transfer report, one set per data set, with planted transfer and γ."""

import json
from pathlib import Path

from tests.support.run_folders import Log, write_run

AUDIT = {
    "ties": {"events": 12, "share": 0.1},
    "future_leaks": {"events": 3, "share": 0.05},
}


def write_models(
    folder: Path,
    log: Log,
    *,
    transfer: dict[str, float] | None = None,
    gaps: dict[str, float] | None = None,
    seeds: tuple[int, ...] = (1,),
    modes: tuple[str, ...] = ("sdsr", "cdsr", "syncrec"),
    notes: dict[str, str] | None = None,
    **options,
) -> list[Path]:
    """One run per mode and seed.

    transfer: {domain: gain of the cross path over SDSR, in logits}. gaps: {domain: φ}. notes: for
    the data card.
    """
    runs = []
    for seed in seeds:
        for mode in modes:
            run = write_run(
                folder / f"{log.name}-{mode}-seed{seed}", log, mode=mode, loss="ce", seed=seed,
                gains={"cross": transfer or {}, "single": 0.0}, gaps=gaps,
                **{"protocols": ("full", "sampled"), "noise": 0.3} | options,
            )  # fmt: skip
            card = log.card | {"audit": AUDIT, "notes": notes or {}}
            (run / "data_card.json").write_text(json.dumps(card))
            runs.append(run)
    return runs
