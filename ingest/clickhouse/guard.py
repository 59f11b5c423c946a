"""What a user who is no admin may run: an allow list over the engine's own parse of the statement.

chDB has no users, and its readonly=1 is not enough: there KILL runs, and so do the function file() and every
table in `system`. So a statement of a restricted user is parsed by the engine (EXPLAIN AST, which resolves
comments, quotes, case and parameters) and each node of that tree must be known here: its kind, its function,
its table function, its table in `system`. What is unknown is refused, so a new engine opens nothing.

Three statements show less in the tree than they run: SHOW … WHERE, APPLY and settings. The first two are
refused; a reader's settings are an allow list in the URL, and in the text the engine's readonly=1 refuses them.
KILL QUERY is a matter of its own (kill.py).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from ingest.clickhouse.engine import Answer, Job
from ingest.clickhouse.kill import restricted
from ingest.clickhouse.statement import StatementError, keyword, tokens
from ingest.clickhouse.users import Limits, Role

TEXT_BYTES_MAX = 256 * 1024

READS = frozenset(b"SELECT WITH FROM SHOW DESCRIBE DESC EXPLAIN EXISTS".split())
WRITES = frozenset(b"INSERT CREATE ALTER DROP TRUNCATE RENAME OPTIMIZE DELETE EXCHANGE".split())

_READ_KINDS = frozenset(
    str.split(
        "SelectWithUnionQuery SelectIntersectExceptQuery SelectQuery ExpressionList Identifier TableIdentifier"
        " Function Literal Subquery TablesInSelectQuery TablesInSelectQueryElement TableExpression TableJoin"
        " ArrayJoin Asterisk QualifiedAsterisk ColumnsRegexpMatcher ColumnsListMatcher ColumnsTransformerList"
        " QualifiedColumnsRegexpMatcher QualifiedColumnsListMatcher ColumnsExceptTransformer"
        " ColumnsReplaceTransformer ColumnsReplaceTransformer::Replacement OrderByElement WithElement"
        " WindowDefinition WindowListElement SampleRatio InterpolateElement Set Explain DescribeQuery"
        " ExistsTableQuery ExistsDatabaseQuery ExistsViewQuery ShowCreateTableQuery ShowCreateViewQuery"
        " ShowTables ShowColumns ShowIndexes ShowFunctions ShowEngineQuery"
    )
)
_WRITE_KINDS = frozenset(
    str.split(
        "InsertQuery CreateQuery AlterQuery AlterCommand DropQuery TruncateQuery Rename OptimizeQuery DeleteQuery"
        " Columns Storage ColumnDeclaration DataType TupleDataType NameTypePair Index Projection Constraint TTLElement"
        " Partition Assignment ViewTargets NameCodec CodecDeclaration StatisticsDeclaration ProjectionSelectQuery Codec"
        " QueryParameter"  # of views with parameters
    )
)
_EXPLAINS = re.compile(r"EXPLAIN(?: AST| SYNTAX| QUERY TREE| PLAN| PIPELINE| ESTIMATE)?")
_TABLE_FUNCTIONS = frozenset(
    str.split(
        "numbers numbers_mt zeros zeros_mt generateseries generate_series generaterandom values sqlstandardvalues"
        " null view primes"
    )
)
_SYSTEM_TABLES = frozenset(
    str.split(
        "tables columns databases functions table_functions table_engines settings merge_tree_settings formats"
        " data_type_families aggregate_function_combinators time_zones collations keywords one numbers numbers_mt"
        " zeros zeros_mt parts parts_columns data_skipping_indices projections build_options contributors licenses"
    )
)
_CATEGORIES = frozenset(
    str.split(
        "QBit,Logical,Financial,Conditional,Encryption,Time Window,Rounding,Null,String Replacement,String Splitting"
        ",Encoding,Bit,UUID,NumericIndexedVector,Bitmap,Random Number,Distance,Tuple,Time Series,Comparison"
        ",IP Address,Map,Geo Polygon,Arithmetic,Mathematical,URL,JSON,String Search,Hash,Geo,String,Arrays"
        ",Dates and Times,Type Conversion,Aggregate Functions",
        ",",
    )
)
_NOT = frozenset({"chdb"})
_OTHERS = frozenset(
    str.split(
        "lambda grouping exists untuple casewithexpression throwif ignore identity materialize totypename"
        " tocolumntypename getsetting getsettingordefault currentdatabase currentuser currentschemas version"
        " displayname revision uptime transform formatreadablesize formatreadabledecimalsize formatreadablequantity"
        " formatreadabletimedelta bar neighbor runningdifference runningaccumulate finalizeaggregation"
        " initializeaggregation defaultvalueoftypename bytesize visiblewidth isconstant globalvariable getsubcolumn"
        " variantelement varianttype rownumberinblock rownumberinallblocks blocknumber blocksize countdigits"
        " lowcardinalityindices lowcardinalitykeys dumpcolumnstructure indexhint"
        " _cast countdistinct parsetimedelta queryid connectionid currentroles enabledroles"
    )
)
_ENGINES = frozenset(
    str.split(
        "mergetree replacingmergetree aggregatingmergetree summingmergetree collapsingmergetree"
        " versionedcollapsingmergetree memory null atomic"
    )
)
_DECLARATIONS = frozenset(  # codecs and indexes, which look like functions
    str.split(
        "codec default none delta doubledelta gorilla gcd t64 fpc lz4 lz4hc zstd minmax set bloom_filter tokenbf_v1"
    )
)
_SETTINGS = re.compile(
    r"output_format_(?:json|arrow|native|csv|parquet|orc|pretty|tsv|msgpack|write|decimal|binary)\w*"
    r"|date_time_(?:in|out)put_format|session_timezone|join_use_nulls|max_block_size|extremes|limit|offset"
    r"|use_client_time_zone|cast_string_to_dynamic_use_inference|max_bytes_before_external_group_by|use_uncompressed_cache"
    r"|input_format_(?:native|null)\w*|prefer_column_name_to_alias|union_default_mode"
)
_IGNORED = frozenset({"readonly", "send_timeout", "receive_timeout", "http_receive_timeout", "http_send_timeout"})
_IN = re.compile(r"(?:global)?(?:not)?(?:null)?in(?:ignoreset)?|(?:global)?notnullin(?:ignoreset)?", re.IGNORECASE)
_LABEL = re.compile(r"( *)([\w:]+)(?: (.*?))??(?: \(alias .*\))?(?: \(children \d+\))?")


class Node(NamedTuple):
    """A line of EXPLAIN AST; `above` are its ancestors' kinds with their names, the nearest last."""

    kind: str
    name: str
    above: tuple[tuple[str, str], ...]
    place: int


def nodes(tree: str) -> Iterator[Node]:
    """The lines of an EXPLAIN AST. Raises StatementError for one that has another form."""
    path: list[tuple[str, str]] = []
    counts: list[int] = []
    for line in tree.removesuffix("\n").split("\n"):
        found = _LABEL.fullmatch(line)
        if found is None or len(found[1]) > len(path):
            raise _refusal("uses a name with a line break or a kind of clause that is not allowed")
        depth = len(found[1])
        del path[depth:], counts[depth + 1 :]
        if len(counts) == depth:
            counts.append(-1)
        counts[depth] += 1
        yield Node(found[2], found[3] or "", tuple(path), counts[depth])
        path.append((found[2], found[3] or ""))


class Asked(Protocol):
    """What parses: the engine, or a server that is asked over HTTP."""

    def run(self, job: Job, /) -> Answer:
        """The whole answer to a statement."""


class Guard:
    """Blocks, for an engine's thread. The functions that there are come from the engine, once."""

    def __init__(self, engine: Asked, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self._functions: frozenset[str] = frozenset()
        self._aggregates: frozenset[str] = frozenset()
        self._combinators: tuple[str, ...] = ()
        self._table_functions: frozenset[str] = frozenset()

    def checked(self, role: Role, job: Job, text: bytes, own: Iterable[str] = ()) -> Job:
        """The job, if this role may run it, with the role's limits. `text`: the statement without an INSERT's data;
        `own`: the ids of the queries that the user has running.

        Raises StatementError, and EngineError for what the engine cannot parse.
        """
        first = keyword(text)
        if first == b"KILL":
            if role == "writer":
                return replace(job, text=restricted(text, None))
            return replace(job, text=restricted(text, own), settings=self._settings(job), preamble=())
        if first not in (READS if role == "reader" else READS | WRITES | {b"SET"}):
            raise _refusal(f"begins with {first.decode(errors='replace')[:40]}, which the role {role} may not run")
        if len(text) > TEXT_BYTES_MAX:
            raise _refusal(f"is longer than {TEXT_BYTES_MAX} bytes")
        if role == "reader":
            job = replace(job, settings=self._settings(job), preamble=())
        if first == b"SHOW" and any(t.kind == "open" or t.word == b"WHERE" for t in tokens(text)):
            raise _refusal("is a SHOW with WHERE or brackets; query the table in system instead")
        if not self._functions:
            self._learn()
        if first != b"SET":
            asked = Job(
                f"{job.query_id} check"[:256], b"EXPLAIN AST " + text, "TSVRaw", job.database, params=job.params
            )
            settings = job.settings if role == "reader" else {}
            tree = self._engine.run(replace(asked, settings=settings)).body.decode(errors="replace")
            for node in nodes(tree):
                self._check(node, role, job.database or "default")
        return job

    def _settings(self, job: Job) -> dict[str, str]:
        limits = self._limits
        caps = {
            "max_execution_time": limits.seconds_max,
            "max_memory_usage": limits.memory_bytes_max,
            "max_result_rows": limits.result_rows_max,
            "max_result_bytes": limits.result_bytes_max,
            "max_threads": limits.threads_max,
        }
        settings = {}
        for name, value in job.settings.items():
            if name in caps:
                if value.isdecimal() and 0 < int(value) < caps[name]:
                    caps[name] = int(value)
            elif _SETTINGS.fullmatch(name):
                settings[name] = value
            elif name not in _IGNORED:
                raise StatementError(
                    164, "READONLY", f"The role reader may not change the setting {name}. Leave it out of the request."
                )
        return {**settings, **{name: str(cap) for name, cap in caps.items()}, "readonly": "1"}

    def _check(self, node: Node, role: Role, database: str) -> None:
        if node.kind not in _READ_KINDS and not (role == "writer" and node.kind in _WRITE_KINDS):
            raise _refusal(f"has a {node.kind}, which the role {role} may not use")
        if node.kind == "Explain" and not _EXPLAINS.fullmatch(node.name):
            raise _refusal(f"is an {node.name}, which is not allowed")
        if node.kind == "Function":
            self._check_function(node, role)
        elif node.kind == "TableIdentifier" or (node.kind == "Identifier" and _is_table(node)):
            _check_table(node.name, database)
        elif node.kind == "ExistsTableQuery" and "/" in node.name:
            raise _refusal("asks for a file")

    def _check_function(self, node: Node, role: Role) -> None:
        name, parent = node.name.lower(), node.above[-1][0] if node.above else ""
        if parent in {"TableExpression", "InsertQuery", "CreateQuery", "DescribeQuery"}:
            view = parent == "TableExpression" and name not in self._table_functions
            if not view and name not in _TABLE_FUNCTIONS and not (role == "writer" and name == "input"):
                raise _refusal(f"uses the table function {node.name}, which the role {role} may not use")
            if view:
                _check_table(node.name, "")
            return
        if parent == "Storage" and name in _ENGINES:
            return
        if role == "writer" and name in _DECLARATIONS:
            return
        if not self._is_allowed(name):
            raise _refusal(f"uses the function {node.name}, which the role {role} may not use")

    def _is_allowed(self, name: str) -> bool:
        if name in self._functions or name in _OTHERS:
            return True
        while name:
            if name in self._aggregates:
                return True
            shorter = next((name.removesuffix(end) for end in self._combinators if name.endswith(end)), "")
            name = shorter
        return False

    def _learn(self) -> None:
        text = b"SELECT name, alias_to, categories, is_aggregate FROM system.functions WHERE origin = 'System'"
        rows = [line.split("\t") for line in self._lines(text)]
        category = {name: kind for name, _, kind, _ in rows}
        allowed = {
            name.lower()
            for name, alias, kind, _ in rows
            if (category.get(alias, "") if alias else kind) in _CATEGORIES and (alias or name).lower() not in _NOT
        }
        others = {name.lower() for name, alias, _, _ in rows if alias and alias.lower() in _OTHERS}
        self._aggregates = frozenset(name.lower() for name, _, _, aggregate in rows if aggregate == "1")
        found = self._lines(b"SELECT lower(name) FROM system.aggregate_function_combinators ORDER BY length(name) DESC")
        self._combinators = tuple(found)
        self._table_functions = frozenset(self._lines(b"SELECT lower(name) FROM system.table_functions"))
        self._functions = frozenset(allowed | others)

    def _lines(self, text: bytes) -> list[str]:
        return self._engine.run(Job("guard", text, "TSVRaw")).body.decode().removesuffix("\n").split("\n")


def _is_table(node: Node) -> bool:
    """After IN stands a table, a column or a tuple; and some statements name their table in parts."""
    if len(node.above) >= 2 and node.above[-1][0] == "ExpressionList" and node.place == 1:
        return node.above[-2][0] == "Function" and _IN.fullmatch(node.above[-2][1]) is not None
    return False


def _check_table(label: str, database: str) -> None:
    """`label` may be one quoted name with dots; both readings must be harmless."""
    first, dot, rest = label.partition(".")
    if (first == "system" and dot and rest not in _SYSTEM_TABLES) or (
        database == "system" and not dot and label not in _SYSTEM_TABLES
    ):
        raise _refusal(f"reads {label}, which shows more than a table's description")
    if "/" in label or Path(label).is_file():
        raise _refusal(f"reads the file {label}")


def _refusal(what: str) -> StatementError:
    return StatementError(497, "ACCESS_DENIED", f"Not enough privileges: the statement {what}.")
