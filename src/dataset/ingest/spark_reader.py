"""Raw files read by Spark, from any file system that it reads."""

import re

import pyarrow.parquet as pq
from ibis.expr.schema import Schema
from ibis.expr.types import Table
from ibis.util import gen_name
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from src.dataset.engine.base import Engine
from src.dataset.engine.spark_engine import cause
from src.dataset.ingest import rejects
from src.dataset.ingest.raw_files import (
    RawFile,
    first_lines,
    is_hidden,
    is_remote,
    local_files,
    text_lines,
    without_comments,
)
from src.dataset.ingest.rejects import Rejected
from src.dataset.ingest.table_reader import FILE, ROW, Layout, PutAside
from src.io.errors import UserError

BYTES = "ISO-8859-1"  # a character a byte: how bytes that are not UTF-8 stay what they are
HASHED_BYTES = 1 << 30  # larger files do not fit into a row of Spark
RAW = "raw_line"
TWO_OBJECTS = r'\}\s*\{\s*"[^",:}\]]+"\s*:'  # no text in a JSON string looks so: " is written \"


class SparkScan:
    """Local files and URIs."""

    rows_known = False

    def __init__(self, engine: Engine):
        self.engine = engine
        self.backend = engine.backend
        self.session = engine.backend._session
        # else a row with too many columns passes when not all of them are asked for
        self.session.conf.set("spark.sql.csv.parser.columnPruning.enabled", "false")
        self.session.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")

    def files(self, place: str) -> list[RawFile]:
        if not is_remote(place):
            return local_files(place)
        path = self._path(place)
        system = self._system(path)
        hits = system.globStatus(path) or []
        found = {}
        root = place.split("*")[0].rpartition("/")[0] if "*" in place else place.rstrip("/")
        root = self._system(path).makeQualified(self._path(root)).toString()
        for hit in hits:
            listed = system.listFiles(hit.getPath(), True)
            while listed.hasNext():
                uri = listed.next().getPath().toString()
                name = uri.removeprefix(root).lstrip("/")
                if not is_hidden(name):
                    found[name] = RawFile(name, uri)
        if not found:
            raise UserError(f"the raw folder {place} does not exist or holds no file")
        return [found[name] for name in sorted(found)]

    def first_lines(self, file: RawFile) -> list[str]:
        if not file.remote:
            return first_lines(file)
        lines = [row.value for row in self.session.read.text(file.path).head(200)]
        return text_lines("\n".join(lines) + "\n") if lines else []

    def parquet_schema(self, file: RawFile) -> Schema:
        return self._table(self._parquet([file])).schema()

    def delimited(self, files: list[RawFile], layout: Layout, wanted: dict[str, str]) -> Table:
        paths = [self._plain(file, layout.comments) for file in files]
        names = [f"column_{place}" for place in range(len(layout.columns))]
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
        rows = self._placed(rows, files, paths)
        rows = rows.withColumns({name: _as_utf8(F.col(name)) for name in [*names, RAW]})
        whole = F.concat_ws("", *names, RAW)
        short = F.regexp_count(F.col(RAW), F.lit(_literally(layout.delimiter))) < len(names) - 1
        broken = (
            F.when(~F.is_valid_utf8(whole), rejects.NOT_UTF8)
            .when(F.col(RAW).isNotNull() & short, rejects.TOO_FEW)
            .when(F.col(RAW).isNotNull(), rejects.TOO_MANY)
        )
        picked = {new: names[layout.columns.index(old)] for new, old in wanted.items()}
        return self._table(_chosen(rows, picked, broken, F.col(RAW)))

    def json_lines(self, files: list[RawFile], wanted: dict[str, str]) -> Table:
        paths = [self._plain(file, comments=0) for file in files]
        lines = self._placed(self.session.read.text(paths), files, paths)
        fields = [StructField(key, StringType()) for key in [*wanted.values(), RAW]]
        options = {
            "columnNameOfCorruptRecord": RAW,
            "allowSingleQuotes": "false",
            "allowNonNumericNumbers": "false",
        }
        line = F.regexp_replace("value", "^\ufeff", "")
        parsed = lines.where(F.trim("value") != "").withColumn(
            "found", F.from_json(F.make_valid_utf8(line), StructType(fields), options)
        )
        whole = F.trim(line).startswith("{") & F.trim(line).endswith("}") & ~line.rlike(TWO_OBJECTS)
        broken = F.when(~F.is_valid_utf8("value"), rejects.NOT_UTF8).when(
            ~whole | F.col(f"found.{RAW}").isNotNull(), rejects.BROKEN_JSON
        )
        picked = {name: f"found.{key}" for name, key in wanted.items()}
        return self._table(_chosen(parsed, picked, broken, F.col("value")))

    def parquet(self, files: list[RawFile]) -> Table:
        rows = self._parquet(files)
        paths = [file.path for file in files]
        placed = self._placed(rows, files, paths, FILE, ROW)
        nanoseconds = {
            name: F.timestamp_micros(F.floor(F.col(name) / 1000).cast("long"))
            for name in _nanoseconds(files[0])
            if rows.schema[name].dataType.typeName() == "long"
        }
        return self._table(
            placed.withColumns({ROW: F.col("_metadata.row_index") + 1, **nanoseconds})
        )

    def keep(self, table: Table) -> Table:
        try:
            return self.engine.materialise(table)
        except (PySparkException, Py4JJavaError) as error:
            raise UserError(f"a raw file cannot be read: {cause(error)}") from None

    def put_aside(self) -> PutAside:
        return PutAside()  # Spark keeps such rows among the others

    def located(self, rows: list[Rejected]) -> list[Rejected]:
        return rows

    def close(self) -> None:
        """Copies without comments lie in the engine's folder and go with it."""

    def digests(self, files: list[RawFile]) -> list[dict]:
        """What the data card keeps of files on any file system.

        A file of more than a gigabyte is told by its time in place of its sha256.
        """
        records = []
        for file in files:
            path = self._path(file.path)
            status = self._system(path).getFileStatus(path)
            record = {"name": file.name, "bytes": status.getLen(), "sha256": None}
            if record["bytes"] <= HASHED_BYTES:
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
            raise UserError(f"{files[0].path} cannot be read: {cause(error)}") from None

    def _placed(
        self,
        rows: DataFrame,
        files: list[RawFile],
        paths: list[str],
        file: str = "file",
        row: str = "row",
    ) -> DataFrame:
        """Add `file`, the name of the file of each row, and `row`, which texts do not tell."""
        odd = next((path for path in paths if re.search(r"[*?\[\]{}]", path)), None)
        if odd:
            raise UserError(f"{odd}: Spark takes *?[]{{}} in a path for a pattern; rename it")
        # readers disagree about how many / stand after file:
        uri = F.regexp_replace("_metadata.file_path", "^file:/+", "file:///")
        if len(files) == 1:
            name = F.lit(files[0].name)
        else:
            names = {self._uri(path): file.name for path, file in zip(paths, files, strict=True)}
            root = next(iter(names)).removesuffix(files[0].name)
            if all(full == root + name for full, name in names.items()):
                name = F.substring(uri, len(root) + 1, 1 << 20)
            else:  # names that a URI writes in another way
                pairs = [F.lit(part) for pair in names.items() for part in pair]
                name = F.create_map(*pairs)[uri]
        return rows.withColumns({file: name, row: F.lit(None).cast("long")})

    def _plain(self, file: RawFile, comments: int) -> str:
        """The file itself, or a copy that Spark can read: without comments, unpacked from .zst."""
        if not comments and (file.remote or not file.path.endswith(".zst")):
            return file.path
        if file.remote:
            raise UserError(
                f"{file.path} begins with comments, which Spark cannot pass over; remove them"
            )
        folder = self.engine.spill / gen_name("plain")
        folder.mkdir()
        return str(without_comments(file.path, comments, folder))

    def _table(self, rows: DataFrame) -> Table:
        name = gen_name("raw")
        rows.createOrReplaceTempView(name)
        return self.backend.table(name)

    def _path(self, place: str):
        return self.session._jvm.org.apache.hadoop.fs.Path(place)

    def _system(self, path):
        return path.getFileSystem(self.session._jsc.hadoopConfiguration())

    def _uri(self, place: str) -> str:
        path = self._path(place)
        qualified = self._system(path).makeQualified(path).toUri().toString()
        return re.sub("^file:/+", "file:///", qualified)


def _as_utf8(text: Column) -> Column:
    """Characters that are bytes as the text that the bytes are."""
    return F.encode(text, BYTES).cast("string")


def _chosen(rows: DataFrame, picked: dict[str, str], broken: Column, text: Column) -> DataFrame:
    broken = broken.cast("byte")
    return rows.select(
        "file",
        "row",
        *[F.make_valid_utf8(F.col(column)).alias(name) for name, column in picked.items()],
        broken.alias("broken"),
        F.when(broken.isNotNull(), F.make_valid_utf8(text)).alias("text"),
    )


def _literally(delimiter: str) -> str:
    return f"\\Q{delimiter}\\E"


def _nanoseconds(file: RawFile) -> list[str]:
    """The columns of a local Parquet file with times finer than Spark's own."""
    if file.remote:
        return []
    schema = pq.read_schema(file.path)
    return [field.name for field in schema if str(field.type).startswith("timestamp[ns")]
