"""The experiment on counts that stop: where they stop decides what they are worth."""

import numpy as np
import pandas as pd
import pytest

from experiments import frozen_counts
from experiments.frozen_counts import models
from experiments.scoring import ndcg_on_test
from src.baselines.covisit import Covisit
from src.baselines.recent import Recent
from src.config.settings import Settings
from src.dataset.store.folder import TEST, TRAIN, open_dataset
from src.evaluation.path_scores import fit_count_models
from src.evaluation.ranking import CountScorer
from src.io.errors import UserError
from tests.support.command_runs import data_step, make_data, make_log


def test_each_row_counts_what_it_says(tmp_path):
    make_log(tmp_path / "raw")
    data_step(
        f"--raw_dir={tmp_path / 'raw'}", f"--out_dir={tmp_path / 'data'}", "--data_name=tiny",
        "--strd_ym=202312", "--split=temporal",
    )  # fmt: skip
    frozen_counts.main([str(tmp_path / "data"), f"--out={tmp_path / 'table'}"])
    table = pd.read_csv(tmp_path / "table.csv").set_index(["model", "counts until"])
    dataset = open_dataset(tmp_path / "data")
    split = np.asarray(dataset.split)
    for name, model in fit_count_models(dataset, Settings()).items():
        if name not in ("recent", "covisit"):
            continue
        expected = ndcg_on_test(dataset, lambda plan, _, model=model: CountScorer(model, plan))
        assert table.loc[(name, "each target")].to_dict() == pytest.approx(expected)
    every = models(Recent, dataset)
    counted = {until: len(model.counts.ticks) for until, model in every.items()}
    assert counted == {
        "each target": len(split), "the test": (split != TEST).sum(),
        "the validation": (split == TRAIN).sum(),
    }  # fmt: skip
    followers = {until: len(model.ticks) for until, model in models(Covisit, dataset).items()}
    assert followers["each target"] > followers["the test"] > followers["the validation"]
    lives = [model.half_lives for model in every.values()]
    assert (lives[1] == lives[2]).all()
    assert "| recent | the validation |" in (tmp_path / "table.md").read_text()


def test_a_dataset_that_is_split_by_user_is_refused(tmp_path):
    data = make_data(tmp_path)
    with pytest.raises(UserError, match="is not split by time"):
        frozen_counts.main([str(data), f"--out={tmp_path / 'table'}"])
    assert not (tmp_path / "table.csv").exists()
