"""Our first stage and reranker in PyTerrier's pipelines and experiments, with no Java."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTerrier's dependencies', on import
    pt = pytest.importorskip("pyterrier")

from rearank import Reranker  # noqa: E402
from rearank.adapters.pyterrier import FirstStage, RerankTransformer, qrels, topics  # noqa: E402
from rearank.data.bm25 import Bm25  # noqa: E402
from rearank.data.synthetic import SyntheticCollection  # noqa: E402
from rearank.engines import EngineError, ScriptedEngine, ScriptedNode  # noqa: E402
from rearank.evaluation import score  # noqa: E402
from tests.rerankers import tiny  # noqa: E402

COLLECTION = SyntheticCollection(seed=1, split="test", passage_count=300, query_count=12, name="small")


@pytest.fixture(scope="module")
def bm25(tmp_path_factory: pytest.TempPathFactory) -> FirstStage:
    return FirstStage(Bm25(cache_dir=str(tmp_path_factory.mktemp("cache"))), COLLECTION)


@pytest.fixture
def oracle() -> Iterator[RerankTransformer]:
    """Knows the judgements."""
    engine = ScriptedEngine("oracle", judgements=COLLECTION.qrels())
    with tiny(engine) as reranker:
        yield RerankTransformer(reranker)


@pytest.fixture(autouse=True)
def _no_java() -> Iterator[None]:
    yield
    assert not pt.java.started()


def test_the_old_name_works_and_names_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match=r"it is rearank\.adapters\.pyterrier\.FirstStage now"):
        from rearank.pyterrier import FirstStage as Old
    assert Old is FirstStage
    import rearank.pyterrier

    with pytest.warns(DeprecationWarning, match="has moved"):
        assert rearank.pyterrier.topics is topics


def test_the_first_stage_is_a_retriever_of_pyterriers(bm25: FirstStage) -> None:
    frame = (bm25 % 10).transform(topics(COLLECTION))
    assert list(frame.columns) == ["qid", "query", "docno", "text", "score", "rank"]
    assert set(frame["qid"]) == set(COLLECTION.queries())
    lists = Bm25(cache_dir=bm25.retriever.cache_dir).retrieve(COLLECTION, COLLECTION.queries(), 10)  # type: ignore[attr-defined]
    for qid, group in frame.groupby("qid", sort=False):
        assert tuple(group["docno"]) == tuple(passage.id for passage in lists[qid].passages)
        assert tuple(group["text"]) == tuple(passage.text for passage in lists[qid].passages)
        assert list(group["score"]) == pytest.approx(lists[qid].scores, rel=1e-5)
        assert np.all(np.diff(group["score"].to_numpy(dtype=np.float32)) < 0), "a tie would be ordered by docno"
        assert list(group["rank"]) == list(range(len(group)))
    one = bm25.search(next(iter(COLLECTION.queries().values())).text)
    assert list(one["qid"].unique()) == ["1"]


def test_a_cutoff_reaches_the_first_stage(bm25: FirstStage) -> None:
    compiled = (bm25 % 7).compile()
    assert isinstance(compiled, FirstStage)
    assert compiled.num_results == 7
    assert (FirstStage(bm25.retriever, COLLECTION, 5) % 7).compile().transform(topics(COLLECTION))["rank"].max() == 4


def test_reranked_results_keep_their_columns(bm25: FirstStage, oracle: RerankTransformer) -> None:
    first = (bm25 % 20).transform(topics(COLLECTION))
    marked = first.assign(mark=first["docno"] + "!", score=-first["score"]).sample(frac=1.0, random_state=3)
    frame = oracle.transform(marked)  # shuffled, and its scores mislead: `rank` says the order
    assert list(frame.columns) == ["qid", "query", "docno", "text", "mark", "score", "rank"]
    assert len(frame) == len(first)
    assert (frame["mark"] == frame["docno"] + "!").all()
    judged = COLLECTION.qrels()
    for qid, group in frame.groupby("qid"):
        assert list(group["rank"]) == list(range(len(group)))
        assert list(group["score"]) == sorted(group["score"], reverse=True)
        assert group["score"].is_unique
        grades = [max(judged[qid].get(docno, 0), 0) for docno in group["docno"]]
        assert grades[:3] == sorted(grades, reverse=True)[:3]


def test_results_without_ranks_are_read_by_score_and_without_scores_as_they_stand(tmp_path: Path) -> None:
    frame = pd.DataFrame({"qid": "1", "query": "q", "docno": ["a", "b", "c"], "text": ["x", "y", "z"]})
    with tiny(ScriptedNode("given")) as reranker:
        keep = RerankTransformer(reranker)
        assert list(keep.transform(frame)["docno"]) == ["a", "b", "c"]
        assert list(keep.transform(frame.assign(score=[1.0, 3.0, 2.0]))["docno"]) == ["b", "c", "a"]
        other = RerankTransformer(reranker, text_field="body", title_field="head")
        renamed = frame.rename(columns={"text": "body"}).assign(head=["T", None, float("nan")])
        assert list(other.transform(renamed)["docno"]) == ["a", "b", "c"]


@pytest.mark.parametrize("column", ["qid", "docno", "text", "query", "score"])
@pytest.mark.parametrize("nothing", [None, float("nan"), pd.NA])
def test_a_cell_without_a_value_is_no_text(column: str, nothing: object) -> None:
    rows = {"qid": ["1", "1"], "query": ["q", "q"], "docno": ["a", "b"], "text": ["x", "y"], "score": [2.0, 1.0]}
    cells = {name: pd.Series(values, dtype=object) for name, values in rows.items()}
    with tiny(ScriptedNode("given")) as reranker:
        transformer = RerankTransformer(reranker)
        assert list(transformer.transform(pd.DataFrame(cells))["docno"]) == ["a", "b"]
        cells[column] = pd.Series([nothing, nothing], dtype=object)
        with pytest.raises(ValueError, match=f"no value in the column '{column}'"):
            transformer.transform(pd.DataFrame(cells))


def test_a_first_stage_needs_a_query(bm25: FirstStage) -> None:
    with pytest.raises(ValueError, match="no value in the column 'query'"):
        bm25.transform(pd.DataFrame({"qid": ["1"], "query": [None]}))
    with pytest.raises(ValueError, match="half a character"):
        bm25.transform(pd.DataFrame({"qid": pd.Series(["1\ud83d"], dtype=object), "query": ["q"]}))


def test_an_experiment_measures_what_we_measure(bm25: FirstStage, oracle: RerankTransformer) -> None:
    pipeline = bm25 % 20 >> oracle
    table = pt.Experiment(
        [bm25 % 20, pipeline],
        topics(COLLECTION),
        qrels(COLLECTION),
        ["ndcg_cut_10"],
        names=["BM25", "oracle"],
        plan="tree",
    ).set_index("name")["ndcg_cut_10"]
    runs = {
        "BM25": (bm25 % 20).transform(topics(COLLECTION)),
        "oracle": pipeline.transform(topics(COLLECTION)),
    }
    for name, frame in runs.items():
        ranked = {qid: list(group["docno"]) for qid, group in frame.groupby("qid", sort=False)}
        values = score(ranked, COLLECTION.qrels(), ("ndcg_cut_10",), "zero")["ndcg_cut_10"]
        assert table[name] == pytest.approx(sum(values.values()) / len(values), abs=1e-6)
    assert table["oracle"] > table["BM25"] + 0.01


def test_pyterrier_can_look_inside(bm25: FirstStage, oracle: RerankTransformer) -> None:
    assert pt.inspect.transformer_inputs(bm25) == [["qid", "query"]]
    assert pt.inspect.transformer_inputs(oracle) == [["qid", "docno", "query", "text"]]
    found = pt.inspect.transformer_outputs(bm25 % 5 >> oracle, ["qid", "query"])
    assert found == ["qid", "query", "docno", "text", "score", "rank"]
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        oracle.transform(pd.DataFrame({"qid": ["1"], "query": ["q"], "docno": ["a"]}))


def test_no_queries_and_no_hits_give_empty_frames(bm25: FirstStage, oracle: RerankTransformer) -> None:
    pipeline = bm25 % 5 >> oracle
    assert len(pipeline.transform(topics(COLLECTION)[:0])) == 0
    unmatched = pipeline.transform(pd.DataFrame({"qid": ["1"], "query": ["zzzz"]}))
    assert list(unmatched.columns) == ["qid", "query", "docno", "text", "score", "rank"]
    assert len(unmatched) == 0


def test_a_failed_query_raises(bm25: FirstStage) -> None:
    with (
        tiny(ScriptedNode("reverse", failing=1.0)) as reranker,
        pytest.raises(EngineError, match="failed this call"),
    ):
        (bm25 % 5 >> RerankTransformer(reranker)).transform(topics(COLLECTION))


@pytest.mark.slow
def test_the_shipped_model_in_a_pipeline(bm25: FirstStage) -> None:
    overrides = ["strategy.size=5", "strategy.step=2"]
    with Reranker("tiny", engine="transformers", overrides=overrides) as reranker:
        frame = (bm25 % 8 >> RerankTransformer(reranker)).transform(topics(COLLECTION)[:3])
    first = (bm25 % 8).transform(topics(COLLECTION)[:3])
    assert set(zip(frame["qid"], frame["docno"], strict=True)) == set(zip(first["qid"], first["docno"], strict=True))


ROWS = {"qid": ["1", "1", "1"], "query": ["q"] * 3, "docno": ["a", "b", "c"], "text": ["x", "y", "z"]}


def rerank_with(column: str, value: object, place: int = 1) -> pd.DataFrame:
    cells = {**ROWS, "title": ["t"] * 3, "score": [3.0, 2.0, 1.0]}
    cells[column] = [value if row == place else cell for row, cell in enumerate(cells[column])]
    with tiny(ScriptedNode("given")) as reranker:
        return RerankTransformer(reranker).transform(
            pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})
        )


@pytest.mark.parametrize("value", [b"x", 5, 1.5, ["x"], True, {"x": 1}])
@pytest.mark.parametrize("column", ["text", "query", "title"])
def test_a_cell_of_another_type_is_no_text(column: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^qid '1', docno 'b': the column '{column}' holds .* and a text is needed"):
        rerank_with(column, value)


@pytest.mark.parametrize("value", [b"b", 1.0, ["b"], True])
@pytest.mark.parametrize("column", ["qid", "docno"])
def test_an_id_is_a_text_or_a_whole_number(column: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^qid .*: the column '{column}' holds .* of type {type(value).__name__}"):
        rerank_with(column, value)
    assert list(rerank_with(column, np.int64(1))["docno"]) == ["a", 1 if column == "docno" else "b", "c"]


def test_a_qid_has_one_query(bm25: FirstStage) -> None:
    with pytest.raises(ValueError, match=r"^qid '1' has two queries, 'q' and 'r' \(column 'query'\)"):
        rerank_with("query", "r", 2)
    with pytest.raises(ValueError, match=r"^qid '7' has two queries, 'a' and 'b'"):
        bm25.transform(pd.DataFrame({"qid": ["7", "7"], "query": ["a", "b"]}))
    with pytest.raises(ValueError, match=r"docno 'c': no value in the column 'query'"):
        rerank_with("query", float("nan"), 2)


@pytest.mark.parametrize("value", ["first", "nan", [1], b"x"])
def test_a_place_is_a_number(value: object) -> None:
    with pytest.raises(ValueError, match=r"^qid '1', docno 'b': the column 'score' holds .* which is no number"):
        rerank_with("score", value)
