"""--set FIELD=VALUE: which fields there are, how a value is read, what is refused, and that everything derived follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import hypothesis.strategies as st
import pytest
from hypothesis import given

import tasks
from tasks import overrides
from tasks.mnist_mlp import MlpConfig, MnistMlp
from tasks.spec import Preset, SpecError, Target, describe, describe_task, hash_json

if TYPE_CHECKING:
    from decimal import Decimal

BUNDLED = [(name, preset) for name in tasks.TASKS for preset in ("smoke", "quick")]
"""The presets whose data needs no download."""


def changed(name: str, **changes: str) -> Any:
    """The task of `smoke` with changes; two underscores in a name stand for the dot."""
    return tasks.load(name, "smoke", changes={key.replace("__", "."): text for key, text in changes.items()}).task


def refused(name: str, changes: Mapping[str, str], preset: str = "smoke") -> str:
    """The one line with which the changes are refused, by load or where the data is read."""
    with pytest.raises(SpecError) as caught:
        _ = tasks.load(name, preset, changes=changes).task.data
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1_000
    return message


def spec_hash(task: Any) -> str:
    return hash_json(describe_task(task))


# What follows from a change.


def test_a_perceptron_of_other_widths() -> None:
    task = changed("mnist_mlp", model__widths="784,32,16,10", batch_size="64", epochs="3")
    shapes = {name: value.shape for name, value in task.init_params(0).items()}
    assert shapes == {
        "dense_0/kernel": (784, 32), "dense_0/bias": (32,), "dense_1/kernel": (32, 16), "dense_1/bias": (16,),
        "dense_2/kernel": (16, 10), "dense_2/bias": (10,),
    }  # fmt: skip
    assert task.train_steps == 3 * 23
    assert next(task.train_batches(0)).inputs["image"].shape == (64, 784)
    assert task.step_flops == 2 * 64 * (3 * (784 * 32 + 32 * 16 + 16 * 10) - 784 * 32)
    assert task.for_parity().model == task.model


def test_a_language_model_of_other_sizes() -> None:
    task = changed(
        "gru_lm", model__hidden="24", model__layers="3", model__vocabulary="500", model__dropout="0", window="10", steps="7",
        optimizer__clip_norm="none", limit="4000,900",
    )  # fmt: skip
    params = task.init_params(0)
    assert params["embedding/embedding"].shape == (500, 64)
    assert params["gru_0/input/kernel"].shape == (64, 72)
    assert params["gru_2/hidden/kernel"].shape == (24, 72)
    assert params["output/kernel"].shape == (24, 500)
    assert (task.train_steps, task.optimizer.clip_norm, task.limit) == (7, None, (4000, 900))
    batch = next(task.train_batches(0))
    assert batch.labels.shape == (16, 10)
    assert batch.labels.max() < 500
    assert task.step_flops == 6 * 160 * (72 * (64 + 24) + 2 * 72 * (24 + 24) + 24 * 500)
    assert "4,000 training and 900 held-out tokens, a vocabulary of 500" in task.data.description
    assert task.for_parity().model.layers == 3


def test_a_bert_of_other_sizes() -> None:
    task = changed(
        "bert_sentiment",
        model__hidden="20",
        model__heads="5",
        model__layers="2",
        max_length="12",
        generated__train="64",
    )
    assert {name: value.shape for name, value in task.init_params(0).items()} == task.model.shapes()
    assert task.model.shapes()["layer_1/attention/query/kernel"] == (20, 20)
    assert next(task.train_batches(0)).inputs["tokens"].shape == (16, 12)
    assert "64 training and 100 held-out sentences" in task.data.description
    per_token = 4 * 20**2 + 2 * 20 * 128 + 2 * 12 * 20
    assert task.step_flops == 6 * 16 * (12 * 2 * per_token + 20**2 + 2 * 20)


def test_sizes_that_are_valid_together_only_are_set_together() -> None:
    model = changed("bert_sentiment", model__heads="7", model__hidden="49").model
    assert (model.heads, model.hidden) == (7, 49)
    optimizer = changed(
        "bert_sentiment", optimizer__warmup_steps="30", optimizer__decay_steps="40", train_steps="40"
    ).optimizer
    assert (optimizer.warmup_steps, optimizer.decay_steps) == (30, 40)


def test_the_rest_of_the_preset_stays() -> None:
    before = tasks.load("mnist_mlp", "quick")
    after = overrides.apply(before, {"batch_size": "7"})
    assert replace(after, task=before.task) == before
    assert after.task == replace(before.task, batch_size=7)  # type: ignore[type-var]
    assert overrides.apply(before, {}) is before
    assert before.task == tasks.load("mnist_mlp", "quick").task


@pytest.mark.parametrize(
    ("changes", "warm_up", "decay"),
    [
        ({"train_steps": "100"}, 10, 100),
        ({"train_steps": "4"}, 0, 4),
        ({"train_steps": "100", "optimizer.warmup_steps": "50"}, 50, 100),
        ({"train_steps": "100", "optimizer.decay_steps": "500"}, 2, 500),
        ({"batch_size": "8"}, 2, 20),
    ],
)
def test_a_schedule_that_ends_with_the_training_goes_on_doing_so(
    changes: Mapping[str, str], warm_up: int, decay: int
) -> None:
    optimizer = tasks.load("bert_sentiment", "smoke", changes=changes).task.optimizer
    assert (optimizer.warmup_steps, optimizer.decay_steps) == (warm_up, decay)


def test_a_schedule_of_its_own_is_left_alone() -> None:
    full = tasks.load("gru_lm", "full", changes={"steps": "50"}).task.optimizer
    assert full.decay_steps == 50
    before = tasks.load("gru_lm", "quick")
    own = replace(before, task=replace(before.task, optimizer=replace(before.task.optimizer, decay_steps=9_000)))  # type: ignore[type-var]
    assert overrides.apply(own, {"steps": "50"}).task.optimizer.decay_steps == 9_000


# The hash of a spec.

UNCHANGED = {
    ("mnist_mlp", "smoke"): "1a018c0399ce47a03cd14b197df5ca6ebade0263b225c3638a8b36009f4cc28c",
    ("mnist_mlp", "quick"): "7d751cf18f3bb1b06c4ce74f0f59688dd6d32f2c0f54ca7b4af5907938ced9c1",
    ("bert_sentiment", "smoke"): "bce34ff8b458fc2e19c34ac21a8797d5158ead0c812bd9fd10800e0322e0c336",
    ("bert_sentiment", "quick"): "6668967a1247094dbd94f73777e6f4323bf7d6bbec305e76fafb50e411a6adbc",
}
WITHOUT_DATA = {  # the text differs between versions of Python, or needs a download
    ("gru_lm", "smoke"): "ce095df19276915764df10a0e51237d2941e33c56d4bb7240062eeccf15ece4f",
    ("gru_lm", "quick"): "6171a98456709cc322d4301a4c5cc1000b282a6c6feeccfcc884d761ee5ff0b2",
    ("gru_lm", "standard"): "602b91540b5d8b3953278f0293f9131fba1657bf151ef3d20f05fc1bb74d7325",
    ("gru_lm", "full"): "a8af637797af06d4fdad028f8010a4da8b396d21385a69c523e3ca58164d0f23",
    ("mnist_mlp", "standard"): "9c86a89611736bcc095f186259328c2b893105a0242300e0603a2292b232ca36",
    ("mnist_mlp", "full"): "eb3221dfa6a0da803d021656fbdffc71016d9da334daaf58f121094157f5de69",
    ("tasks.gru_char", "quick"): "f1db24df834b4fe3404025dab5302c316452af2d0f7ef9180bfbb6c5f757ef20",
}


@pytest.mark.parametrize(("name", "preset"), UNCHANGED)
@pytest.mark.slow
def test_the_hash_of_a_published_preset_stays_what_it_is(name: str, preset: str) -> None:
    """Records of different dates are compared by it: a change of it must be meant."""
    assert spec_hash(tasks.load(name, preset).task) == UNCHANGED[name, preset]


@pytest.mark.parametrize(("name", "preset"), WITHOUT_DATA)
def test_the_sizes_of_a_published_preset_stay_what_they_are(name: str, preset: str) -> None:
    task = tasks.load(name, preset).task
    assert hash_json({"task": task.name, **describe(task)}) == WITHOUT_DATA[name, preset]


def other(text: str) -> str:
    """Another value of the same form."""
    match text.split(","):
        case ["none"]:
            return "9999"
        case [first, second, *rest]:
            return ",".join([first, str(int(second) + 1), *rest])
    return str(int(text) + 1) if text.isdecimal() else repr(float(text) / 2 + 0.01)


# For these, one more is not valid.
ELSE = {
    "model.hidden": {"model.hidden": "64"},
    "model.heads": {"model.heads": "4"},
    "max_length": {"max_length": "31"},
    "limit": {"limit": "66000,6000"},
}


@pytest.mark.parametrize("name", tasks.TASKS)
@pytest.mark.slow
def test_every_field_that_can_be_set_is_in_the_hash(name: str) -> None:
    preset = tasks.load(name, "smoke")
    before = spec_hash(preset.task)
    for path, text in overrides.describe_fields(preset).items():
        after = overrides.apply(preset, ELSE.get(path, {path: other(text)}))
        assert spec_hash(after.task) != before, path
        assert spec_hash(overrides.apply(preset, {path: text}).task) == before, path


@pytest.mark.parametrize(("name", "preset"), BUNDLED)
def test_the_fields_read_back_as_they_are_described(name: str, preset: str) -> None:
    chosen = tasks.load(name, preset)
    described = overrides.describe_fields(chosen)
    assert overrides.apply(chosen, described).task == chosen.task
    assert not {"source", "data_dir", "checkpoint", "name"} & set(described)


def test_the_fields_of_a_preset_are_described_with_their_values() -> None:
    described = overrides.describe_fields(tasks.load("mnist_mlp", "smoke"))
    assert described == {
        "batch_size": "32", "epochs": "2", "model.widths": "784,128,10", "optimizer.learning_rate": "0.001",
        "optimizer.beta1": "0.9", "optimizer.beta2": "0.999", "optimizer.eps": "1e-08", "optimizer.weight_decay": "0.0",
        "optimizer.clip_norm": "none", "optimizer.warmup_steps": "0", "optimizer.decay_steps": "none",
    }  # fmt: skip


# Fields that are not there, or not to be set.


@pytest.mark.parametrize(
    ("name", "path", "said"),
    [
        (
            "mnist_mlp",
            "batchsize",
            "no such field, did you mean batch_size? there are: batch_size, epochs, model.widths",
        ),
        ("mnist_mlp", "lr", "no such field; there are: batch_size"),
        ("mnist_mlp", "learning_rate", "did you mean optimizer.learning_rate? there are: batch_size"),
        ("gru_lm", "hidden", "did you mean model.hidden?"),
        (
            "gru_lm",
            "model.hiden",
            "did you mean model.hidden? there are: model.vocabulary, model.embedding, model.hidden",
        ),
        ("gru_lm", "modle.hidden", "did you mean model.hidden? there are: batch_size"),
        ("gru_lm", "model.window", "no such field, did you mean window? there are: model.vocabulary"),
        ("gru_lm", "model", "model has fields of its own: set one of model.vocabulary, model.embedding"),
        ("gru_lm", "window.size", "window has no fields: set window itself"),
        ("gru_lm", "", "no such field; there are: batch_size"),
        ("gru_lm", "model..hidden", "did you mean model.hidden?"),
        ("gru_lm", "source", "source is fixed by the task and its preset; there are: batch_size"),
        ("gru_lm", "data_dir", "data_dir is fixed by the task and its preset"),
        ("bert_sentiment", "checkpoint", "checkpoint is fixed by the task and its preset"),
        ("bert_sentiment", "name", "no such field"),
        ("bert_sentiment", "__class__", "no such field"),
    ],
)
def test_a_field_that_is_not_there_is_answered_by_those_that_are(name: str, path: str, said: str) -> None:
    message = refused(name, {path: "1"})
    assert message.startswith(f"--set {path}=1: ")
    assert said in message


# Values of the wrong form.


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("batch_size", "1.5", "a whole number; its current value is 16"),
        ("batch_size", "1e2", "a whole number"),
        ("batch_size", "32.0", "a whole number"),
        ("batch_size", "", "a whole number"),
        ("batch_size", " 32", "a whole number"),
        ("batch_size", "3_2", "a whole number"),
        ("batch_size", "٣٢", "a whole number"),
        ("batch_size", "0x20", "a whole number"),
        ("batch_size", "none", "a whole number"),
        ("batch_size", "true", "a whole number"),
        ("batch_size", "9" * 5000, "a whole number"),
        ("optimizer.learning_rate", "nan", "a finite number; its current value is 0.001"),
        ("optimizer.learning_rate", "inf", "a finite number"),
        ("optimizer.learning_rate", "1e999", "a finite number"),
        ("optimizer.learning_rate", "1,5", "a finite number"),
        ("optimizer.clip_norm", "None", "a finite number or none; its current value is 0.25"),
        ("optimizer.decay_steps", "2.5", "a whole number or none; its current value is none"),
        (
            "limit",
            "5",
            "2 values separated by commas: a whole number, a whole number or none; its current value is none",
        ),
        ("limit", "1,2,3", "2 values separated by commas: a whole number, a whole number or none"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_one_that_is_expected(path: str, text: str, expected: str) -> None:
    message = refused("gru_lm", {path: text})
    assert message.startswith(f"--set {path}=")
    assert f": expected {expected}" in message
    assert len(message) < 250


@pytest.mark.parametrize("text", ["", "784", "784,x,10", "784,,10", "784,1.5,10", "784,10,", "(784,10)", "none"])
def test_widths_are_whole_numbers_separated_by_commas(text: str) -> None:
    assert "widths" in refused("mnist_mlp", {"model.widths": text})


def test_spaces_after_a_comma_are_no_fault() -> None:
    assert changed("mnist_mlp", model__widths="784, 256, 10").model == MlpConfig((784, 256, 10))


def test_a_message_stays_one_line_whatever_was_typed() -> None:
    for text in ("1\n2", "\x1b[2J", "x" * 10_000_000, "\u2028", "'\""):
        message = refused("mnist_mlp", {"batch_size": text})
        assert message.isprintable()
        assert len(message) < 200


@given(
    st.dictionaries(
        st.sampled_from(["batch_size", "epochs", "model.widths", "optimizer.eps", "x"]) | st.text(), st.text()
    )
)
@pytest.mark.slow
def test_anything_typed_is_a_task_or_one_line(changes: dict[str, str]) -> None:
    preset = tasks.load("mnist_mlp", "smoke")
    try:
        after = overrides.apply(preset, changes)
    except SpecError as error:
        assert "\n" not in str(error)  # noqa: PT017  # either outcome is right
    else:
        assert set(changes) <= set(overrides.describe_fields(preset))
        describe(after.task)


@given(st.integers(1, 10**9), st.floats(min_value=1e-300, max_value=1e300))
def test_a_number_means_itself(size: int, rate: float) -> None:
    preset = tasks.load("mnist_mlp", "smoke")
    task = overrides.apply(preset, {"batch_size": str(size), "optimizer.learning_rate": repr(rate)}).task
    assert (task.batch_size, task.optimizer.learning_rate) == (size, rate)  # type: ignore[attr-defined]


# Values that make the task invalid.


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("mnist_mlp", {"batch_size": "0"}, "--set batch_size=0: batch_size is 0: expected a whole number of 1 or more"),
        ("mnist_mlp", {"batch_size": "-1"}, "batch_size is -1"),
        ("mnist_mlp", {"batch_size": "5000"}, "batch_size is 5,000: larger than the training set of 1,437 images"),
        ("mnist_mlp", {"epochs": "0"}, "epochs is 0"),
        ("mnist_mlp", {"model.widths": "784,0,10"}, "a width is 0"),
        ("mnist_mlp", {"model.widths": "784,9999999,9999999,10"}, "parameters: expected 2,000,000,000 or less"),
        ("mnist_mlp", {"model.widths": "100,10"}, "expected 784 pixels first and 10 digits last"),
        ("mnist_mlp", {"optimizer.learning_rate": "0"}, "learning_rate is 0.0: expected a finite number > 0"),
        ("mnist_mlp", {"optimizer.learning_rate": "-1e-3"}, "learning_rate is -0.001"),
        ("mnist_mlp", {"optimizer.beta1": "1"}, "beta1 is 1.0"),
        ("gru_lm", {"model.layers": "0"}, "layers is 0"),
        ("gru_lm", {"model.dropout": "1"}, "dropout is 1.0: expected a finite number >= 0 and < 1"),
        ("gru_lm", {"window": "0"}, "window is 0"),
        ("gru_lm", {"window": "100000"}, "tokens: expected at least 1,600,000, one window"),
        ("gru_lm", {"batch_size": "100000"}, "tokens: expected at least 2,000,000, one window"),
        ("gru_lm", {"model.vocabulary": "900000"}, "a vocabulary of 900,000 is larger than the training text"),
        ("gru_lm", {"model.hidden": "100000"}, "parameters: expected 2,000,000,000 or less"),
        ("gru_lm", {"optimizer.warmup_steps": "151"}, "warmup_steps is 151, but the training has 150 updates"),
        ("bert_sentiment", {"model.heads": "3"}, "hidden is 32, not a multiple of heads, 3"),
        ("bert_sentiment", {"model.layers": "0"}, "layers is 0"),
        ("bert_sentiment", {"max_length": "33"}, "max_length 33: the model has 32 positions"),
        ("bert_sentiment", {"batch_size": "257"}, "larger than the training set of 256 sentences"),
        ("bert_sentiment", {"model.vocabulary": "20"}, "vocabulary is 20: expected"),
        ("bert_sentiment", {"generated.train": "0"}, "train is 0"),
        ("bert_sentiment", {"optimizer.warmup_steps": "20"}, "warmup_steps is 20: expected fewer than the 20 decay_steps"),
        (
            "bert_sentiment",
            {"model.hidden": "30", "model.heads": "4"},
            "--set model.hidden=30 --set model.heads=4: hidden is 30, not a multiple of heads, 4",
        ),
    ],
)  # fmt: skip
def test_a_value_that_makes_the_task_invalid_is_one_clear_line(name: str, changes: dict[str, str], said: str) -> None:
    assert said in refused(name, changes)


# Tasks of the user's own.


def own_task(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    monkeypatch.syspath_prepend(folder)
    (folder / "own_task.py").write_text(body, encoding="utf-8")
    monkeypatch.delitem(tasks.importlib.sys.modules, "own_task", raising=False)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Own(MnistMlp):
    """Every type that a field may have, and some that it may not."""

    flag: bool = False
    word: str = "x"
    kind: Literal["a", "b"] = "a"
    shape: tuple[int, float] = (1, 2.0)
    maybe: str | None = None
    odd: "Decimal | None" = None
    derived: int = field(default=3, init=False)
    hidden: int = field(default=4, metadata={"set": False})


OWN = Preset(
    task=Own("digits", batch_size=32, epochs=1), warmup_steps=1, blocks=10, rounds=1, seeds=1,
    target=Target("accuracy", at_least=0.5),
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("flag", "true", True), ("word", "any text, at all", "any text, at all"), ("kind", "b", "b"),
        ("shape", "3,4", (3, 4.0)), ("maybe", "none", None), ("maybe", "some", "some"),
    ],
)  # fmt: skip
def test_fields_of_every_plain_type_can_be_set(path: str, text: str, value: object) -> None:
    hints = {each.name: each for each in fields(Own)}
    assert path in hints
    plain = replace(OWN, task=replace(OWN.task, odd=None))  # type: ignore[type-var]
    monkey = getattr(overrides.apply(plain, {path: text}).task, path)
    assert monkey == value
    assert type(monkey) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("flag", "yes", "expected true or false; its current value is false"),
        ("kind", "c", "expected a or b; its current value is a"),
        (
            "shape",
            "1.5,2",
            "expected 2 values separated by commas: a whole number, a finite number; its current value is 1,2.0",
        ),
        ("odd", "1", "cannot be written as text"),
        ("derived", "1", "derived is fixed by the task and its preset"),
        ("hidden", "1", "hidden is fixed by the task and its preset"),
        ("word", "a\nb", "expected printable text"),
    ],
)
def test_fields_that_cannot_be_set_so_say_why(path: str, text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        overrides.apply(OWN, {path: text})
    assert said in str(caught.value)


def test_what_a_task_of_the_users_raises_is_one_line() -> None:
    class Picky(MnistMlp):
        def __post_init__(self) -> None:
            if self.batch_size == 13:
                raise ZeroDivisionError("no luck\nat all")

    preset = replace(OWN, task=Picky("digits", batch_size=32, epochs=1))
    with pytest.raises(SpecError) as caught:
        overrides.apply(preset, {"batch_size": "13"})
    assert str(caught.value) == "--set batch_size=13: ZeroDivisionError: no luck"


ENDING = "from tests.test_overrides import OWN\ndef preset(name, data_dir): return "


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "def preset(name, data_dir):\n    return 1 / 0",
            "preset('smoke') raised ZeroDivisionError: division by zero (own_task.py, line 2)",
        ),
        ("def preset(name, data_dir):\n    raise OSError(5, 'first\\nsecond')", "raised OSError: [Errno 5] first (own_task.py"),
        ("def preset(name, data_dir):\n    raise ValueError", "raised ValueError (own_task.py, line 2)"),
        ("def preset(name):\n    pass", "raised TypeError: preset() takes 1 positional argument"),
        ("def preset(name, data_dir):\n    return {'quick': 1}[name]", "it has no preset 'smoke'"),
        ("def preset(name, data_dir):\n    return {}['other']", "raised KeyError: 'other' (own_task.py, line 2)"),
        ("def preset(name, data_dir):\n    return 3", "returned a int, expected a tasks.spec.Preset"),
        ("pass", "the module has no function `preset(name, data_dir)`"),
        ("1 / 0", "the module cannot be imported: ZeroDivisionError: division by zero (own_task.py, line 1)"),
        ("x = = 1", "the module cannot be imported: SyntaxError"),
        (
            "from dataclasses import replace\n" + ENDING + "replace(OWN, task=object())",
            "object has no name, unit, model, optimizer, data, train_steps, init_params",
        ),
        (
            "from dataclasses import replace\n" + ENDING + "replace(OWN, blocks=2)",
            "blocks is 2: expected a whole number of 10 or more",
        ),
    ],
)  # fmt: skip
def test_a_module_that_gives_no_preset_is_reported_in_one_line(
    body: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_task(monkeypatch, tmp_path, body)
    with pytest.raises(SpecError) as caught:
        tasks.load("own_task", "smoke")
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert str(tmp_path) not in message
    if "blocks" not in said:
        assert message.startswith("--task own_task: ")


def test_a_module_that_is_not_there_is_left_to_the_caller() -> None:
    with pytest.raises(ModuleNotFoundError):
        tasks.load("no_such_module_at_all", "smoke")


def test_a_task_of_the_users_own_takes_changes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_task(monkeypatch, tmp_path, ENDING + "OWN")
    task = tasks.load("own_task", "smoke", changes={"word": "y", "batch_size": "5"}).task
    assert type(task).__name__ == "Own"
    assert (task.word, task.batch_size, task.train_steps) == ("y", 5, 288)
