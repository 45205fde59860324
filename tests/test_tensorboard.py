"""What TensorBoard shows: curves in groups, and the hyperparameters of runs side by side."""
import pathlib

from evaluation import figures
from hyperparams import HyperParams
from training import run_folder

import numpy as np
import pytest
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups


def begin(logdir: pathlib.Path, hp: HyperParams) -> run_folder.Run:
    """A run without a network."""
    return run_folder.Run(logdir, hp, {"generator": []})


def finish(run: run_folder.Run) -> None:
    for writer in run.writers.values():
        writer.flush()


def provider(logdir: pathlib.Path) -> MultiplexerDataProvider:
    """Return the data that TensorBoard reads from all runs below a folder."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    return MultiplexerDataProvider(multiplexer, str(logdir))


def compared(logdir: pathlib.Path, metric: tuple[str, str]) -> dict[str, tuple[dict, float | None]]:
    """Return TensorBoard's table of runs: hyperparameters, and the last value of a metric (folder, tag)."""
    data, request = backend_context.Context(TBContext(data_provider=provider(logdir))), context.RequestContext()
    experiment = get_experiment.Handler(request, data, "", api_pb2.GetExperimentRequest()).run()
    columns = [api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos]
    columns += [api_pb2.ColParams(hparam=info.name) for info in experiment.hparam_infos]
    query = api_pb2.ListSessionGroupsRequest(col_params=columns, slice_size=10, start_index=0,
                                             allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING])
    found = {}
    for group in list_session_groups.Handler(request, data, "", query).run().session_groups:
        values = {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}
        metrics = {(each.name.group, each.name.tag): each.value for each in group.metric_values}
        found[group.sessions[0].name] = values, metrics.get(metric)
    return found


def test_runs_are_compared_by_their_hyperparameters(tmp_path):
    for name, hp, distortion in (("a", HyperParams(norm="ln"), 5.5), ("b", HyperParams(width=64), 7.5)):
        run = begin(tmp_path / name, hp)
        for step, mcd in ((1, 9.0), (2, distortion)):
            run.step.assign(step)
            run.log("validation", {"free_running/mcd": mcd})
        finish(run)
    begin(tmp_path / "a", HyperParams(norm="ln"))  # the run is resumed
    rows = compared(tmp_path, ("validation", "free_running/mcd"))
    assert sorted(rows) == ["a", "b"]
    (a, of_a), (b, of_b) = rows["a"], rows["b"]
    assert (of_a, of_b) == (5.5, 7.5)
    assert (a["norm"], a["width"], a["learning_rate"]) == ("ln", 256.0, pytest.approx(1e-3))
    assert (b["norm"], b["width"]) == ("bn", 64.0)


def test_restarted_run_shows_only_its_new_hyperparameters(tmp_path):
    for width in (32, 64):
        run_folder.clear_run(tmp_path / "a")
        finish(begin(tmp_path / "a", HyperParams(width=width)))
    assert len(list((tmp_path / "a").glob("events*"))) == 1
    assert compared(tmp_path, ("", ""))["a"][0]["width"] == 64.0


def test_every_tag_is_in_a_group(tmp_path):
    run = begin(tmp_path / "run", HyperParams())
    run.step.assign(7)
    # Scalars of paired and adversarial tasks, from training and validation
    run.log("train", {"loss": 1.0, "loss/mean_loss1": 2.0, "align/position_loss": 3.0, "gradient_norm": 4.0,
                      "gan/gen_loss": 5.0})
    run.log("validation", {"score": 6.0, "free_running/mcd": 7.0})
    figures.plot_curves(tmp_path / "p.png", {"a": ([1, 2], [0.5, 0.4])}, "Loss", "L1")
    run.log_sample("rms-demo_001", np.zeros(1600, np.float32), tmp_path / "p.png")
    finish(run)
    data, request, tags = provider(tmp_path), context.RequestContext(), {}
    for kind, read in (("scalars", data.list_scalars), ("audio", data.list_blob_sequences),
                       ("images", data.list_blob_sequences)):
        for tagged in read(request, experiment_id="", plugin_name=kind).values():
            tags |= {tag: (kind, series.max_step) for tag, series in tagged.items()}
    assert {tag: kind for tag, (kind, _) in tags.items()} == {
        "loss/minimised": "scalars", "loss/mean_loss1": "scalars", "loss/gradient_norm": "scalars",
        "align/position_loss": "scalars", "gan/gen_loss": "scalars", "free_running/score": "scalars",
        "free_running/mcd": "scalars", "audio/rms-demo_001": "audio", "align/rms-demo_001": "images"}
    assert {step for _, step in tags.values()} == {7}
