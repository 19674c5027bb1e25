"""Raw files read by Spark, from any file system that it reads."""

import re
from typing import Any

import pyarrow.parquet as pq
from ibis.expr.schema import Schema
from ibis.expr.types import Table
from ibis.util import gen_name
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from src.dataset.engine.spark_engine import SparkEngine, root_cause
from src.dataset.ingest import rejects
from src.dataset.ingest.json_keys import as_json_line
from src.dataset.ingest.raw_files import (
    FileRecord,
    RawFile,
    first_lines,
    is_hidden,
    is_remote,
    local_files,
    text_lines,
)
from src.dataset.ingest.rejects import RejectedRow
from src.dataset.ingest.table_reader import FILE, ROW, RejectedRows, TextLayout
from src.dataset.ingest.text_bytes import is_readable, plain_copy
from src.io.errors import UserError

BYTES = "ISO-8859-1"  # one character per byte: preserves bytes that are not UTF-8
MAX_HASHED_BYTES = 1 << 30  # larger files do not fit into a row of Spark
RAW = "raw_line"
TWO_OBJECTS = r'\}\s*\{\s*"[^",:}\]]+"\s*:'  # cannot occur in a JSON string: " is written \"


class SparkReader:
    """Local files and URIs."""

    knows_rows = False

    def __init__(self, engine: SparkEngine):
        self.engine = engine
        self.backend = engine.backend
        self.session = engine.backend._session
        # otherwise a row with too many columns passes when not all of them are selected
        self.session.conf.set("spark.sql.csv.parser.columnPruning.enabled", "false")
        self.session.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
        # otherwise two names that differ by case are refused, also where neither is wanted
        self.session.conf.set("spark.sql.caseSensitive", "true")

    def files(self, location: str) -> list[RawFile]:
        if not is_remote(location):
            return local_files(location)
        path = self._path(location)
        system = self._file_system(path)
        files = {}
        root = location.rstrip("/")
        if "*" in location:
            root = location.split("*")[0].rpartition("/")[0]
        root = system.makeQualified(self._path(root)).toString()
        for match in system.globStatus(path) or []:
            listing = system.listFiles(match.getPath(), True)
            while listing.hasNext():
                uri = listing.next().getPath().toString()
                name = uri.removeprefix(root).lstrip("/")
                if not is_hidden(name):
                    files[name] = RawFile(name, uri)
        if not files:
            raise UserError(f"the raw folder {location} does not exist or is empty; see --raw_dir")
        return [files[name] for name in sorted(files)]

    def first_lines(self, file: RawFile) -> list[str]:
        if not file.remote:
            return first_lines(file)
        lines = [row.value for row in self.session.read.text(file.path).head(200)]
        return text_lines("\n".join(lines) + "\n") if lines else []

    def parquet_schema(self, file: RawFile) -> Schema:
        return self._table(self._parquet([file])).schema()

    def delimited(self, files: list[RawFile], layout: TextLayout, wanted: dict[str, str]) -> Table:
        paths = [self._readable_path(file, layout.comments, layout.encoding) for file in files]
        names = [f"column_{n}" for n in range(len(layout.columns))]
        fields = [StructField(name, StringType()) for name in [*names, RAW]]
        quote = '"' if layout.quoted else ""
        rows = self.session.read.csv(
            paths,
            schema=StructType(fields),
            sep=layout.delimiter,
            quote=quote,
            escape=quote or "\\",
            header=layout.header,
            multiLine=layout.quoted,
            encoding=BYTES,
            mode="PERMISSIVE",
            columnNameOfCorruptRecord=RAW,
            enforceSchema=True,
            maxCharsPerColumn=-1,
        )
        rows = self._with_file(rows, files, paths)
        rows = rows.withColumns({name: _as_utf8(F.col(name)) for name in [*names, RAW]})
        row_text = F.concat_ws("", *names, RAW)
        is_short = F.regexp_count(F.col(RAW), F.lit(_literal(layout.delimiter))) < len(names) - 1
        read_error = (
            F.when(~F.is_valid_utf8(row_text), rejects.NOT_UTF8)
            .when(F.col(RAW).isNotNull() & is_short, rejects.TOO_FEW)
            .when(F.col(RAW).isNotNull(), rejects.TOO_MANY)
        )
        picked = {new: names[layout.columns.index(old)] for new, old in wanted.items()}
        return self._table(_with_errors(rows, picked, read_error, F.col(RAW)))

    def json_lines(
        self,
        files: list[RawFile],
        wanted: dict[str, str],
        lists: dict[str, tuple[str, str]] | None = None,
        python: bool = False,
    ) -> Table:
        paths = [self._readable_path(file, python=python) for file in files]
        lines = self._with_file(self.session.read.text(paths), files, paths)
        fields = [StructField(key, StringType()) for key in dict.fromkeys([*wanted.values(), RAW])]
        members: dict[str, list[StructField]] = {}
        for key, inner in (lists or {}).values():
            members.setdefault(key, []).append(StructField(inner, StringType()))
        fields += [StructField(key, ArrayType(StructType(of))) for key, of in members.items()]
        options = {
            "columnNameOfCorruptRecord": RAW,
            "allowSingleQuotes": "false",
            "allowNonNumericNumbers": "false",
        }
        line = F.regexp_replace("value", "^\ufeff", "")
        parsed = lines.where(F.trim("value") != "").withColumn(
            "parsed", F.from_json(F.make_valid_utf8(line), StructType(fields), options)
        )
        is_object = (
            F.trim(line).startswith("{") & F.trim(line).endswith("}") & ~line.rlike(TWO_OBJECTS)
        )
        read_error = F.when(~F.is_valid_utf8("value"), rejects.NOT_UTF8).when(
            ~is_object | F.col(f"parsed.{RAW}").isNotNull(), rejects.NOT_JSON
        )
        for name in wanted.keys() & rejects.EMPTY.keys():
            read_error = read_error.when(_is_nested(line, wanted[name]), rejects.NESTED)
        picked = {name: f"parsed.`{key}`" for name, key in wanted.items()}
        arrays = {
            name: F.col(f"parsed.`{key}`.`{inner}`") for name, (key, inner) in (lists or {}).items()
        }
        return self._table(_with_errors(parsed, picked, read_error, F.col("value"), arrays))

    def parquet(self, files: list[RawFile]) -> Table:
        rows = self._parquet(files)
        paths = [file.path for file in files]
        named = self._with_file(rows, files, paths, FILE, ROW)
        nanoseconds = {
            name: F.timestamp_micros(_floor_div(F.col(name), 1000))
            for name in _nanoseconds(files[0])
            if rows.schema[name].dataType.typeName() == "long"
        }
        return self._table(
            named.withColumns({ROW: F.col("_metadata.row_index") + 1, **nanoseconds})
        )

    def load(self, table: Table) -> Table:
        try:
            return self.engine.materialise(table)
        except (PySparkException, Py4JJavaError) as error:
            raise UserError(f"a raw file cannot be read: {root_cause(error)}") from None

    def rejected_rows(self) -> RejectedRows:
        return RejectedRows()  # Spark keeps such rows, with `read_error`

    def forget_rejected_rows(self) -> None:
        """There are none."""

    def with_line_numbers(self, rows: list[RejectedRow]) -> list[RejectedRow]:
        return rows

    def close(self) -> None:
        """Copies without comments are in the engine's folder and removed with it."""

    def file_records(self, files: list[RawFile]) -> list[FileRecord]:
        """A file of more than a gigabyte gets its modification time instead of its sha256."""
        records = []
        for file in files:
            path = self._path(file.path)
            status = self._file_system(path).getFileStatus(path)
            record: FileRecord = {"name": file.name, "bytes": status.getLen(), "sha256": None}
            if status.getLen() <= MAX_HASHED_BYTES:
                content = self.session.read.format("binaryFile").load(file.path)
                record["sha256"] = content.select(F.sha2("content", 256)).first()[0]
            else:
                record["modified"] = status.getModificationTime() // 1000
            records.append(record)
        return records

    def _parquet(self, files: list[RawFile]) -> DataFrame:
        try:
            return self.session.read.parquet(*[file.path for file in files])
        except (PySparkException, Py4JJavaError) as error:
            raise UserError(f"{files[0].path} cannot be read: {root_cause(error)}") from None

    def _with_file(
        self,
        rows: DataFrame,
        files: list[RawFile],
        paths: list[str],
        file: str = "file",
        row: str = "row",
    ) -> DataFrame:
        """Add `file`, the name of each row's file, and `row`, unknown for text files."""
        pattern = next((path for path in paths if re.search(r"[*?\[\]{}]", path)), None)
        if pattern:
            raise UserError(f"{pattern}: Spark reads *?[]{{}} in a path as a pattern; rename it")
        # readers disagree about the number of / after file:
        uri = F.regexp_replace("_metadata.file_path", "^file:/+", "file:///")
        if len(files) == 1:
            name = F.lit(files[0].name)
        else:
            names = {self._uri(path): file.name for path, file in zip(paths, files, strict=True)}
            root = next(iter(names)).removesuffix(files[0].name)
            if all(full == root + name for full, name in names.items()):
                name = F.substring(uri, len(root) + 1, 1 << 20)
            else:  # names that a URI escapes
                pairs = [F.lit(part) for pair in names.items() for part in pair]
                name = F.create_map(*pairs)[uri]
        return rows.withColumns({file: name, row: F.lit(None).cast("long")})

    def _readable_path(
        self, file: RawFile, comments: int = 0, encoding: str = "", python: bool = False
    ) -> str:
        """The file, or a copy that Spark can read: unpacked UTF-8 without comments."""
        as_it_is = not (comments or encoding or python)
        if as_it_is and (file.remote or (is_readable(file.path) and file.path[-4:] != ".zst")):
            return file.path
        if file.remote:
            raise UserError(
                f"{file.path} begins with comments, or has another encoding or form, which Spark "
                "cannot read from another file system; copy it to this machine"
            )
        folder = self.engine.spill / gen_name("plain")
        folder.mkdir()
        convert = as_json_line if python else None
        return str(plain_copy(file.path, folder, comments, encoding, convert))

    def _table(self, rows: DataFrame) -> Table:
        name = gen_name("raw")
        rows.createOrReplaceTempView(name)
        return self.backend.table(name)

    def _path(self, location: str) -> Any:
        return self.session._jvm.org.apache.hadoop.fs.Path(location)

    def _file_system(self, path: Any) -> Any:
        return path.getFileSystem(self.session._jsc.hadoopConfiguration())

    def _uri(self, location: str) -> str:
        path = self._path(location)
        qualified = self._file_system(path).makeQualified(path).toUri().toString()
        return re.sub("^file:/+", "file:///", qualified)


def _as_utf8(text: Column) -> Column:
    """Text read with one character per byte, decoded as UTF-8."""
    return F.encode(text, BYTES).cast("string")


def _with_errors(
    rows: DataFrame,
    picked: dict[str, str],
    read_error: Column,
    text: Column,
    arrays: dict[str, Column] | None = None,
) -> DataFrame:
    """The picked columns, the reason why a row cannot be read, and only then its text."""
    read_error = read_error.cast("byte")
    return rows.select(
        "file",
        "row",
        *[F.make_valid_utf8(F.col(column)).alias(name) for name, column in picked.items()],
        *[column.alias(name) for name, column in (arrays or {}).items()],
        read_error.alias("read_error"),
        F.when(read_error.isNotNull(), F.make_valid_utf8(text)).alias("text"),
    )


def _is_nested(line: Column, key: str) -> Column:
    """Whether the value of the key is an object or an array, not a text that begins like one."""
    value = F.try_variant_get(F.try_parse_json(line), f"$['{key}']", "variant")
    is_nested = F.schema_of_variant(value).rlike("^(OBJECT|ARRAY)")
    begins_so = F.col(f"parsed.`{key}`").rlike(r"^[{\[]")  # cheaper, and rarely true
    return F.when(begins_so, is_nested).otherwise(F.lit(False))


def _literal(delimiter: str) -> str:
    return f"\\Q{delimiter}\\E"


def _floor_div(number: Column, by: int) -> Column:
    """Whole numbers divided downwards; a quotient by / is a double, which has too few digits."""
    return F.call_function("div", number - F.pmod(number, F.lit(by)), F.lit(by))


def _nanoseconds(file: RawFile) -> list[str]:
    """The columns of a local Parquet file with times finer than Spark's."""
    if file.remote:
        return []
    schema = pq.read_schema(file.path)
    return [field.name for field in schema if str(field.type).startswith("timestamp[ns")]
