"""Write the .tflite files of others that tests/test_load.py reads; README.md says what each is.

    python -m venv V && V/bin/pip install tensorflow-cpu==2.21.0 ai-edge-quantizer==0.10.0 pymicro-wakeword==2.5.0
    V/bin/python make_tflite.py

Weights are random: the files prove arithmetic, not accuracy.
"""
# pyright: reportMissingImports=false, reportMissingModuleSource=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import importlib.resources
from pathlib import Path

import numpy as np
import tensorflow as tf
from ai_edge_quantizer import quantizer, recipe

HERE = Path(__file__).parent
K, L = tf.keras.ops, tf.keras.layers


def samples(model, count=16):
    """Batches of one, as the converter and the quantizer want them for calibration."""
    rng = np.random.default_rng(1)
    return [rng.uniform(-1, 1, model.input_shape).astype(np.float32) for _ in range(count)]


def alive(model):
    """BatchNorm statistics of random data, so that every activation has a spread; random gammas and betas."""
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.0
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(rng.normal(0, 0.5, layer.beta.shape))
    for _ in range(4):
        model(rng.uniform(-1, 1, model.input_shape).astype(np.float32), training=True)
    return model


def mobilenet():
    """MobileNetV2 at width 0.35 for 64 pixels and 10 classes."""
    inputs = tf.keras.Input((64, 64, 3), 1, name="x")
    return alive(tf.keras.applications.MobileNetV2(alpha=0.35, weights=None, classes=10, input_tensor=inputs))


def squeeze_excite(x, channels):
    """A MobileNetV3 block's gate: MEAN, two FULLY_CONNECTED, LOGISTIC, MUL."""
    gate = L.Dense(channels // 2, "relu")(L.GlobalAveragePooling2D()(x))
    return L.Multiply()([x, L.Reshape((1, 1, channels))(L.Dense(channels, "sigmoid")(gate))])


def common(inputs):
    """The layers that both converters quantize: windows, gates, sums, parts."""
    x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(8, 3, 2, "same", use_bias=False)(inputs)))
    x = squeeze_excite(L.Add()([x, L.DepthwiseConv2D(3, padding="same")(x)]), 8)
    x = L.Concatenate()([L.MaxPooling2D(2)(x), L.AveragePooling2D(3, 2, "same")(x)])
    x = L.Conv2D(16, 3, dilation_rate=2, padding="same")(K.pad(x, [[0, 0], [1, 0], [0, 1], [0, 0]]))
    left, right = K.split(x, 2, -1)
    return L.Subtract()([K.tanh(left), K.gelu(right)])


def attention(x, depth=8):
    """One head over the rows of an image: TRANSPOSE, two BATCH_MATMUL, SOFTMAX."""
    rows = L.Reshape((-1, depth))(x)
    query, key, value = (L.Dense(depth)(rows) for _ in range(3))
    return K.matmul(K.softmax(K.matmul(query, K.transpose(key, (0, 2, 1))) * depth**-0.5), value)


def small():
    """What both converters quantize, then attention, a mean and logits."""
    inputs = tf.keras.Input((16, 16, 3), 1, name="x")
    x = attention(common(inputs))
    return alive(tf.keras.Model(inputs, L.Dense(10)(K.mean(x, 1))))


def odd():
    """The rest: SUM, LEAKY_RELU, PRELU, HARD_SWISH, TRANSPOSE_CONV, ABS, EXP, SQRT, RSQRT, maxima, slices."""
    inputs = tf.keras.Input((12, 12, 4), 1, name="x")
    x = L.LeakyReLU(negative_slope=0.2)(L.Conv2DTranspose(6, 3, 2, "same")(inputs))
    x = L.PReLU(alpha_initializer=tf.keras.initializers.RandomUniform(0, 0.5), shared_axes=[1, 2])(x)
    x = x * K.relu6(x + 3.0) / 6.0
    x = K.maximum(L.Conv2D(6, 3, 2, "same", groups=2)(x), x[:, ::2, 1::2])
    x = K.minimum(x, K.exp(-K.abs(x)))
    x = K.concatenate([K.sqrt(K.abs(x) + 0.1), K.rsqrt(K.abs(x) + 0.5), K.transpose(x, (0, 2, 1, 3))], -1)
    x = L.Lambda(lambda x: tf.math.squared_difference(x, x[:, :1]))(x)
    x = K.stack(K.unstack(x, axis=1)[:4], 1)
    return alive(tf.keras.Model(inputs, [K.sum(x, (1, 2)), K.max(x, -1), L.Dense(5)(L.Flatten()(x))]))


def words():
    """A bag of words at two positions: tables of 70 and of 20 rows of 16 numbers, and logits of 70 words."""
    ids, places = (tf.keras.Input((7,), 1, "int32", name=name) for name in ("ids", "places"))
    rng = np.random.default_rng(3)
    tables = [L.Embedding(n, 16, weights=[rng.normal(size=(n, 16)).astype(np.float32)]) for n in (70, 20)]
    x = K.mean(L.Add()([tables[0](ids), tables[1](places)]), 1)
    return tf.keras.Model([ids, places], L.Dense(70)(x))


def full_integer(model, io=tf.int8, per_channel=True):
    """Post-training quantization to int8, no float operator inside; `io` is the type of both ends."""
    made = tf.lite.TFLiteConverter.from_keras_model(model)
    made.optimizations = [tf.lite.Optimize.DEFAULT]
    made.representative_dataset = lambda: ([x] for x in samples(model))
    made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    made.inference_input_type = made.inference_output_type = io
    made._experimental_disable_per_channel = not per_channel
    return made.convert()


def by_ai_edge(model):
    """Post-training quantization to int8 of the float file, by ai-edge-quantizer."""
    made = quantizer.Quantizer(
        bytearray(tf.lite.TFLiteConverter.from_keras_model(model).convert()), recipe.static_wi8_ai8()
    )
    calibrated = made.calibrate({"serving_default": [{"x": x} for x in samples(model)]})
    return bytes(made.quantize(calibrated).quantized_model)


def dynamic_range(model):
    """Weights in int8, activations in floats that kernels quantize as they run."""
    made = tf.lite.TFLiteConverter.from_keras_model(model)
    made.optimizations = [tf.lite.Optimize.DEFAULT]
    return made.convert()


def dynamic_by_ai_edge(model):
    """The same by ai-edge-quantizer, from the float file."""
    made = quantizer.Quantizer(
        bytearray(tf.lite.TFLiteConverter.from_keras_model(model).convert()), recipe.dynamic_wi8_afp32()
    )
    return bytes(made.quantize().quantized_model)


def files():
    """Every file by its name."""
    tf.keras.utils.set_random_seed(0)
    convolutions, plain, rest = mobilenet(), small(), odd()
    wake_word = importlib.resources.files("pymicro_wakeword") / "models" / "hey_jarvis.tflite"
    return {
        "mobilenet_v2.tflite": full_integer(convolutions),
        "small_float.tflite": tf.lite.TFLiteConverter.from_keras_model(plain).convert(),
        "small_float_ends.tflite": full_integer(plain, tf.float32, per_channel=False),
        "small_ai_edge.tflite": by_ai_edge(plain),
        "small_dynamic.tflite": dynamic_range(plain),
        "small_ai_edge_dynamic.tflite": dynamic_by_ai_edge(plain),
        "words_dynamic.tflite": dynamic_range(words()),
        "odd_uint8_ends.tflite": full_integer(rest, tf.uint8),
        "odd_float.tflite": tf.lite.TFLiteConverter.from_keras_model(rest).convert(),
        "hey_jarvis.tflite": wake_word.read_bytes(),
    }


if __name__ == "__main__":
    for name, data in files().items():
        (HERE / name).write_bytes(data)
        print(f"{name}: {len(data):,} bytes")
