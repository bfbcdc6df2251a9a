"""Wrong arguments and wrong data: each error names what was wrong."""

import keras
import numpy as np
import pytest
from conftest import tiny_model, tiny_network

import sd_keras
from sd_keras import methods
from sd_keras.distortions import CropFlip

BYOT = methods.be_your_own_teacher()


@pytest.mark.parametrize("wrong", [-1, 4, 2**31 - 1])
@pytest.mark.parametrize("call", ["fit", "evaluate", "validation_data"])
def test_label_arrays_are_checked_on_entry(images, labels, wrong, call):
    model = tiny_model(BYOT)
    bad = labels.copy()
    bad[3] = wrong
    with pytest.raises(
        ValueError, match=r"must hold class numbers 0…3.* Received: .*" + str(wrong)
    ):
        if call == "validation_data":
            model.fit(images, labels, validation_data=(images, bad), verbose=0)
        else:
            getattr(model, call)(images, bad, verbose=0)
    assert int(model.step.value) == 0


SPARSE = keras.losses.SparseCategoricalCrossentropy(True)


@pytest.mark.parametrize(
    "jit_compile,loss",
    [
        (False, None),
        (False, SPARSE),
        pytest.param(True, None, marks=pytest.mark.large),
        pytest.param(True, SPARSE, marks=pytest.mark.large),
    ],
)
def test_labels_of_a_stream_raise_after_the_step(images, labels, jit_compile, loss):
    import tensorflow as tf

    model = tiny_model(BYOT, compile_with={"jit_compile": jit_compile, "loss": loss})
    for wrong in (-2, 7):
        bad = labels.copy()
        bad[9] = wrong
        data = tf.data.Dataset.from_tensor_slices((images, bad)).batch(8)
        with pytest.raises(ValueError, match=rf"class numbers 0…3.* Received: y .*{wrong}"):
            model.fit(data, shuffle=False, verbose=0)
        with pytest.raises(ValueError, match=rf"class numbers 0…3.* Received: y .*{wrong}"):
            model.evaluate(data, verbose=0)


def test_labels_of_other_forms(images, labels):
    model = tiny_model(BYOT, eager=True)
    with pytest.raises(ValueError, match=r"`y` must be class numbers \(n,\) or .*\(32, 3\)"):
        model.fit(images, np.zeros((32, 3), "float32"), verbose=0)
    with pytest.raises(ValueError, match="`y` must hold whole class numbers"):
        model.fit(images, labels + 0.5, verbose=0)
    with pytest.raises(ValueError, match="`y` must hold probabilities of at least 0"):
        model.fit(images, np.eye(4)[labels] - 0.5, verbose=0)
    with pytest.raises(ValueError, match="`y` must hold the labels"):
        model.fit(images, verbose=0)


@pytest.mark.parametrize("shape", [(32, 8, 8), (32, 8, 8, 3), (32, 9, 8, 1)])
def test_images_of_another_shape(labels, shape):
    model = tiny_model(BYOT, CropFlip(1), eager=True)
    wrong = np.zeros(shape, "uint8")
    with pytest.raises(ValueError, match=r"`x` must be images of shape \('n', 8, 8, 1\)") as error:
        model.fit(wrong, labels, verbose=0)
    assert str(shape) in str(error.value)
    with pytest.raises(ValueError, match=r"`x` must be images of shape"):
        model(wrong)


def test_images_of_a_stream_of_another_shape(labels):
    import tensorflow as tf

    wrong = np.zeros((32, 8, 8, 3), "uint8")
    data = tf.data.Dataset.from_tensor_slices((wrong, labels)).batch(8)
    with pytest.raises(ValueError, match=r"`x` must be images of shape \('n', 8, 8, 1\)"):
        tiny_model(BYOT, CropFlip(1), eager=True).fit(data, shuffle=False, verbose=0)


def test_images_that_are_not_finite(labels):
    wrong = np.full((32, 8, 8, 1), np.nan, "float32")
    with pytest.raises(ValueError, match="`x` must be finite"):
        tiny_model(BYOT, eager=True).fit(wrong, labels, verbose=0)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.large)])
def test_a_loss_that_is_not_finite_stops_and_names_step_and_objective(images, labels, jit_compile):
    import tensorflow as tf

    x = images.astype("float32")
    x[24:] = np.inf
    data = tf.data.Dataset.from_tensor_slices((x, labels)).batch(8)
    model = tiny_model(BYOT, compile_with={"jit_compile": jit_compile})
    with pytest.raises(sd_keras.NonFiniteLossError) as error:
        model.fit(data, shuffle=False, verbose=0)
    assert error.value.step == 4
    assert {"exit_2_loss", "exit_kl"} <= set(error.value.terms)
    assert "training step 4" in str(error.value)


def test_one_objective_alone_is_named(images, labels):
    method = methods.be_your_own_teacher(hint_weight=1.0)
    model = tiny_model(method, eager=True)
    features = model.network.get_layer("bottleneck_1").blocks[-2]
    features.gamma.assign(features.gamma * 1e30)
    with pytest.raises(sd_keras.NonFiniteLossError, match="exit_hint"):
        model.fit(images, labels, verbose=0)


def test_network_without_exits():
    plain = sd_keras.models.resnet((8, 8, 1), "cifar", (1, 1), (4, 8))
    with pytest.raises(ValueError, match=r"`network` must be a functional model with outputs exit"):
        sd_keras.SelfDistillModel(plain)
    with pytest.raises(ValueError, match=r"`network` needs at least 2 exits.*\['exit_1'\]"):
        sd_keras.SelfDistillModel(tiny_network(at=[]), BYOT)


def test_exit_that_does_not_exist():
    with pytest.raises(ValueError, match=r"`exit_name` must be one of \['exit_1', 'exit_2'\]"):
        sd_keras.submodel(tiny_network(), "exit_3")


def test_two_views_needed_one_given(images, labels):
    model = tiny_model(methods.data_distortion(), eager=True)
    with pytest.raises(ValueError, match=r"`distortion` must be given.*needs 2 views"):
        model.fit(images, labels, verbose=0)
    with pytest.raises(ValueError, match=r"`x` must hold 2 views.* Received: 3 views"):
        model.fit((images, images, images), labels, verbose=0)
    with pytest.raises(ValueError, match=r"`mixing` must be a sd_keras.mixing.Mix"):
        tiny_model(mixing=0.2, eager=True)


@pytest.mark.parametrize(
    "loss,message",
    [
        ("sparse_categorical_crossentropy", "made for logits"),
        (keras.losses.CategoricalCrossentropy(), "made for logits"),
        (keras.losses.KLDivergence(), "made for logits"),
        ("poisson", "made for logits"),
        (keras.losses.CategoricalCrossentropy(True, reduction="sum"), "mean over the batch"),
        ({"exit_1": "mse"}, "be one loss"),
        (lambda y, z: keras.ops.mean(z), "one value per example"),
    ],
)
def test_losses_that_do_not_fit(images, labels, loss, message):
    model = tiny_model(BYOT, compile_with={"loss": loss}, eager=True)
    with pytest.raises(ValueError, match=f"`loss` must .*{message}"):
        model.fit(images, labels, verbose=0)


def test_pixels_that_look_scaled_are_pointed_out(images, labels):
    with pytest.warns(UserWarning, match="`x` has no pixel above 1: .* raw pixels"):
        tiny_model(BYOT, eager=True).fit(images / 255.0, labels, verbose=0)
    with pytest.raises(ValueError, match=r"`mean` and `std` must be in units of 0…1"):
        tiny_network(mean=120.0, std=60.0)


def test_exits_that_a_method_does_not_train_are_pointed_out():
    with pytest.warns(UserWarning, match="trains exit_2 only; the other exits"):
        sd_keras.SelfDistillModel(tiny_network(), methods.baseline())


def test_what_a_model_does_not_take_is_refused(images, labels):
    with pytest.raises(ValueError, match="`y` must be one array of labels"):
        tiny_model(BYOT, eager=True).train_on_batch(images, {"exit_1": labels, "exit_2": labels})
    with pytest.raises(ValueError, match="`loss_weights` must be None"):
        tiny_model(BYOT, compile_with={"loss_weights": [1, 2]}, eager=True).fit(
            images, labels, verbose=0
        )
    with pytest.raises(ValueError, match="export the network"):
        tiny_model(BYOT, eager=True).export("somewhere")
    with pytest.raises(ValueError, match=r"`network` must be the network itself: pass model.netw"):
        sd_keras.submodel(tiny_model(BYOT, eager=True), "exit_1")
    with pytest.raises(ValueError, match="`y` must hold class numbers or probabilities"):
        tiny_model(BYOT, eager=True).fit(images, np.array(["a"] * 32), verbose=0)


def test_constructor_arguments():
    with pytest.raises(ValueError, match="`method` must be a sd_keras.methods.Method"):
        sd_keras.SelfDistillModel(tiny_network(), "be_your_own_teacher")
    with pytest.raises(ValueError, match="`distortion` must be callable"):
        sd_keras.SelfDistillModel(tiny_network(), BYOT, 4)


@pytest.mark.parametrize(
    "call,choice",
    [
        (lambda: sd_keras.models.build("resnet19"), "resnet18"),
        (lambda: methods.get("byot"), "be_your_own_teacher"),
        (lambda: sd_keras.data.load("digitz"), "digits"),
    ],
)
def test_unknown_names_list_the_choices(call, choice):
    with pytest.raises(ValueError, match=rf"`name` must be .*{choice}"):
        call()
