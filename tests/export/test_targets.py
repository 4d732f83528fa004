"""What targets say of files, against counts by hand and a compiler."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.export import TargetFigures, TargetProfile
from tfcompress.export.targets import _c, _program, _target
from tfcompress.export.targets._program import Operator, dominant, operators

needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="needs ethos-u-vela"
)
needs_micro = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="needs tflite-micro"
)


def network(zeros=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
            keras.layers.MaxPooling2D(2),
            keras.layers.DepthwiseConv2D(3, activation="relu", name="depthwise"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="wide"),
            keras.layers.Dense(10, name="last"),
        ]
    )
    if zeros:
        kernel, bias = model.get_layer("wide").get_weights()
        kernel[np.abs(kernel) < np.quantile(np.abs(kernel), 0.9)] = 0
        model.get_layer("wide").set_weights([kernel, bias])
    return model


def write_stub(folder):
    """A header like that of MicroMutableOpResolver, with all of its methods."""
    header = folder / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    header.parent.mkdir(parents=True)
    methods = "\n".join(
        f"  int Add{_c._method(kind)}() {{ return ++used_; }}"
        for kind in sorted(_c._KERNELS)
    )
    header.write_text(
        "namespace tflite {\ntemplate <unsigned int Count>\n"
        f"class MicroMutableOpResolver {{\n public:\n{methods}\n"
        " private:\n  unsigned int used_ = 0;\n};\n}\n"
    )
    return folder


def sources():
    """Folders to include from: of checkouts that the environment names.

    TFLITE_MICRO_SOURCE, FLATBUFFERS_SOURCE, GEMMLOWP_SOURCE and RUY_SOURCE.
    """
    names = ("TFLITE_MICRO", "FLATBUFFERS", "GEMMLOWP", "RUY")
    places = [os.environ.get(f"{name}_SOURCE") for name in names]
    found = [Path(place) for place in places if place]
    return [*found, *(place / "include" for place in found)]


def library(root):
    """Sources of the interpreter and of the kernels of the network above."""
    tensorflow, kernels = root / "tensorflow", "lite/micro/kernels/"
    patterns = [
        *("lite/micro/*.cc", "lite/micro/arena_allocator/*.cc"),
        *("lite/micro/memory_planner/*.cc", "lite/micro/tflite_bridge/*.cc"),
        *("lite/core/*/*.cc", "lite/kernels/*.cc", "lite/kernels/internal/*.cc"),
        *("lite/kernels/internal/reference/*.cc", "compiler/mlir/lite/*/*.cc"),
        *("compiler/mlir/lite/core/api/*.cc", f"{kernels}conv*.cc"),
        *(f"{kernels}depthwise_conv*.cc", f"{kernels}fully_connected*.cc"),
        *(f"{kernels}pooling*.cc", f"{kernels}reshape*.cc"),
        *(f"{kernels}kernel_util.cc", f"{kernels}micro_tensor_utils.cc"),
    ]
    found = {path for pattern in patterns for path in tensorflow.glob(pattern)}
    apart = re.compile("test|mock|benchmark|fake_micro")
    return sorted(path for path in found if not apart.search(path.name))


_MAIN = """
#include <cstdint>
#include <cstdio>
#include "net.h"
#include "net_resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"

alignas(16) static uint8_t arena[net_arena_size + 1024];

int main() {
  static auto resolver = net_resolver();
  tflite::MicroInterpreter interpreter(
      tflite::GetModel(net_model), resolver, arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) return 1;
  TfLiteTensor* input = interpreter.input(0);
  if (input->bytes != net_input0_elements) return 2;
  if (std::fread(input->data.data, 1, input->bytes, stdin) != input->bytes) return 3;
  if (interpreter.Invoke() != kTfLiteOk) return 4;
  TfLiteTensor* output = interpreter.output(0);
  std::fwrite(output->data.data, 1, output->bytes, stdout);
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of the network, dense and with 90 % of its largest kernel zero."""
    folder = tmp_path_factory.mktemp("targets")
    x = np.random.default_rng(0).random((50, 16, 16, 1), "float32")
    for name, zeros in (("dense", False), ("zeros", True)):
        tfc.export.to_tflite(
            network(zeros),
            folder / f"{name}.tflite",
            quantization="int8",
            calibration=x,
        )
    tfc.export.to_tflite(network(), folder / "float.tflite")
    return folder


@pytest.fixture(scope="module")
def dense(folder):
    return folder / "dense.tflite"


class TestOperators:
    def test_work_and_weights_are_those_of_the_model(self, dense):
        found = operators(dense.read_bytes())
        counted = tfc.cost.count(network())
        assert sum(op.macs for op in found) == counted.macs
        by_kind = {op.kind: op for op in found if op.kind != "FULLY_CONNECTED"}
        # 14 × 14 outputs of 3 × 3 weights; then 5 × 5 on 7 × 7.
        assert by_kind["CONV_2D"].macs == 14 * 14 * 8 * 9
        assert by_kind["DEPTHWISE_CONV_2D"].macs == 5 * 5 * 8 * 9
        assert by_kind["CONV_2D"].constants == 8 * 9 + 8 * 4  # int8, int32
        assert by_kind["CONV_2D"].working == 16 * 16 + 14 * 14 * 8

    def test_convolutions_of_volumes_are_counted(self, tmp_path):
        conv = keras.layers.Conv3D(3, (1, 2, 3), strides=(1, 2, 1))
        model = keras.Sequential([keras.Input((4, 5, 6, 2)), conv])
        tfc.export.to_tflite(model, tmp_path / "volume.tflite")
        found = operators((tmp_path / "volume.tflite").read_bytes())
        assert "CONV_3D" in {op.kind for op in found}
        # 4 × 2 × 4 outputs of 3 channels.
        assert sum(op.macs for op in found) == 4 * 2 * 4 * 3 * (1 * 2 * 3 * 2)

    def test_work_that_is_not_seen_is_not_none(self, tmp_path):
        lstm = keras.layers.LSTM(4)
        model = keras.Sequential([keras.Input((3, 2)), lstm, keras.layers.Dense(2)])
        tfc.export.to_tflite(model, tmp_path / "lstm.tflite")
        found = operators((tmp_path / "lstm.tflite").read_bytes())
        assert {op.kind for op in found if op.macs is None} == {"WHILE"}
        assert {dominant(found, part) for part in ("macs", "constants")} == {""}

    @pytest.mark.parametrize("kind", ["SVDF", "CONV_3D_TRANSPOSE", "TFLite_Custom"])
    def test_kinds_that_nobody_knows_are_not_free(self, kind):
        detail = {"shape": (2, 3)}
        assert _program._macs(kind, [detail, detail], detail) is None
        assert _program._macs("ADD", [detail, detail], detail) == 0

    def test_the_largest_is_named(self, dense):
        found = operators(dense.read_bytes())
        wide = 200 * 64  # its bias is zero and left out of the file
        share = 100 * wide / sum(op.constants for op in found)
        assert re.fullmatch(rf".*wide.*, {share:.0f} %", dominant(found, "constants"))
        assert dominant([], "macs") == ""


@needs_vela
class TestEthosU:
    def test_zeros_save_flash_though_the_file_is_as_large(self, folder, dense):
        before, after = (
            tfc.export.target(folder / f"{name}.tflite", "ethos-u55-128")
            for name in ("dense", "zeros")
        )
        sizes = ((folder / "zeros.tflite").stat().st_size, dense.stat().st_size)
        assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
        assert after.flash < 0.5 * before.flash
        assert after.latency < before.latency
        assert before.fallback == ()
        assert before.settings["clock"] == "500 MHz"
        assert before.inferences_per_second == pytest.approx(1e3 / before.latency)
        assert "ethos-u-vela" in str(before)

    def test_a_float_file_is_left_to_the_cpu(self, folder):
        figures = tfc.export.target(folder / "float.tflite", "ethos-u55-128")
        assert "Conv2D" in figures.fallback
        assert figures.latency is None


@needs_micro
class TestMicrocontroller:
    def test_it_computes_what_litert_does(self, dense):
        figures = tfc.export.target(dense, "microcontroller")
        # Its kernels may round the other way than LiteRT's, by one step.
        assert figures.exact or "differ by up to 1." in figures.note
        assert figures.flash == dense.stat().st_size
        # At least the largest input and output of one operator, at most all tensors.
        found = operators(dense.read_bytes())
        assert max(op.working for op in found) <= figures.ram
        assert figures.ram < 8192 + sum(op.working for op in found)
        assert figures.latency is None


def test_this_computer_is_named(dense):
    figures = tfc.export.target(dense, "this computer")
    assert figures.latency > 0
    assert figures.settings["processor"]


class TestProfile:
    def write(self, tmp_path, **changes):
        values = {
            "name": '"board"',
            "target": '"this computer"',
            "flash": 1_000_000,
            **changes,
        }
        path = tmp_path / "board.toml"
        path.write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
        return path

    def test_it_says_what_does_not_fit_and_why(self, dense, tmp_path):
        size = dense.stat().st_size
        macs = tfc.cost.count(network()).macs
        path = self.write(
            tmp_path,
            flash=size - 2048,
            ram=1,
            latency_ms=1e3 * macs / 1e6,
            macs_per_second=1e6,
            energy_uj=10.0,
            energy_pj_per_mac=100.0,
        )
        figures = tfc.export.target(dense, path)
        flash, ram, latency, energy = figures.checks
        assert (flash.needed, flash.fits) == (size, False)
        assert "2.0 KiB too much (most of it: " in str(flash)
        assert "wide" in flash.dominated_by
        assert ram.fits is None
        assert latency.needed == pytest.approx(1e3 * macs / 1e6)
        assert latency.fits is True
        assert energy.needed == pytest.approx(macs * 100e-6)
        assert figures.target == "board"
        assert figures.fits is False
        assert figures.verdict.startswith("does not fit: flash")

    def test_a_latency_that_the_profile_gives_is_not_called_measured(self, dense):
        figures = TargetFigures("board", "LiteRT", "measured", latency=3.0)
        profile = TargetProfile("board", "this computer", macs_per_second=1e6)
        found = operators(dense.read_bytes())
        macs = tfc.cost.count(network()).macs
        judged = profile.judge(figures, found)
        assert judged.latency == 1e3 * macs / 1e6
        assert f"computed from {macs:,} MACs, 1e+06 a second" in str(judged)
        own = TargetProfile("board", "this computer").judge(figures, found)
        assert own.latency == 3.0 and "computed" not in str(own)

    def test_what_cannot_be_counted_gives_no_latency_and_no_energy(self):
        figures = TargetFigures("board", "LiteRT", "measured", latency=0.01)
        profile = TargetProfile(
            *("board", "this computer"),
            latency_ms=5,
            energy_uj=1,
            macs_per_second=1e6,
            energy_pj_per_mac=100,
        )
        found = [
            Operator("lstm", "WHILE", None, 0, 64),
            Operator("last", "FULLY_CONNECTED", 128, 512, 520),
        ]
        judged = profile.judge(figures, found)
        assert judged.latency is None
        assert judged.verdict == (
            "may fit: latency not known, 5 ms allowed; energy not known, 1 µJ allowed"
        )
        assert "MACs of WHILE cannot be counted" in judged.note
        found[0] = Operator("lstm", "UNIDIRECTIONAL_SEQUENCE_LSTM", None, 512, 64)
        assert dominant(found, "macs") == ""
        assert dominant(found, "constants") == "lstm, 50 %"

    def test_all_budgets_kept(self, dense):
        profile = TargetProfile("roomy", "this computer", flash=1e9)
        figures = tfc.export.target(dense, profile)
        assert figures.fits is True
        assert figures.verdict.startswith("fits: flash")

    @pytest.mark.parametrize(
        "changes",
        [
            {"target": '"toaster"'},
            {"name": 3},
            {"flash": -1},
            {"flash": '"much"'},
            {"flash": "true"},
            {"speed": 3},
            {"name": '"'},
        ],
    )
    def test_an_invalid_file_is_refused(self, dense, tmp_path, changes):
        with pytest.raises(ValueError, match=r"board\.toml"):
            tfc.export.target(dense, self.write(tmp_path, **changes))


class TestRefusals:
    @pytest.mark.parametrize("name", ["toaster", "ethos-u55-1", "absent.toml"])
    def test_unknown_targets(self, dense, name):
        with pytest.raises(ValueError, match="`name`"):
            tfc.export.target(dense, name)
        with pytest.raises(TypeError, match="`name`"):
            tfc.export.target(dense, 3)

    @pytest.mark.parametrize("name", ["ethos-u55-128", "microcontroller"])
    def test_a_tool_that_is_not_there(self, dense, name, monkeypatch):
        monkeypatch.setattr(_target.importlib.util, "find_spec", lambda module: None)
        with pytest.raises(ImportError, match=r"pip install .tfcompress\[targets\]"):
            tfc.export.target(dense, name)

    def test_files_that_are_none(self, tmp_path):
        path = tmp_path / "no.tflite"
        path.write_bytes(b"TFL3 nothing")
        with pytest.raises(ValueError, match="`path`"):
            tfc.export.target(path, "this computer")


class TestC:
    def test_the_array_is_the_file(self, dense, tmp_path):
        source = tfc.export.to_c(dense, tmp_path / "net.cc")
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            pytest.skip("needs a C++ compiler")
        main = tmp_path / "main.cc"
        main.write_text(
            '#include <cstdio>\n#include "net.h"\nint main() {\n'
            "  std::fwrite(net_model, 1, net_model_size, stdout);\n"
            '  std::fprintf(stderr, "%zu %d %.9g", net_input0_elements,\n'
            "               net_input0_zero_point, net_input0_scale);\n}\n"
        )
        program = tmp_path / "program"
        command = [compiler, "-std=c++17", str(main), str(source), "-o", str(program)]
        subprocess.run(command, check=True)
        done = subprocess.run([str(program)], capture_output=True, check=True)
        assert done.stdout == dense.read_bytes()
        elements, zero_point, scale = done.stderr.split()
        assert int(elements) == 256
        detail = tfc.export._runtime.open_file(dense).inputs[0][1]
        assert float(scale) == pytest.approx(detail["quantization"][0])
        assert int(zero_point) == detail["quantization"][1]

    def test_all_of_it_compiles(self, dense, tmp_path):
        """Against the interface that TensorFlow Lite Micro has, without its code.

        The stub has one method for each operator, as the real class, so that a
        method that does not exist is an error. A checkout takes its place, see
        `sources`.
        """
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            pytest.skip("needs a C++ compiler")
        source = tfc.export.to_c(dense, tmp_path / "net.cc")
        folders = sources() or [write_stub(tmp_path / "stub")]
        main = tmp_path / "main.cc"
        main.write_text(
            '#include "net.h"\n#include "net_resolver.h"\nint main() {\n'
            "  static auto resolver = net_resolver();\n"
            "  return net_model[0] + net_model_size + net_input0_elements +\n"
            "         net_output0_zero_point + sizeof(resolver);\n}\n"
        )
        include = [part for folder in folders for part in ("-isystem", str(folder))]
        options = ["-std=c++17", "-Wall", "-Werror", "-fsyntax-only", *include]
        options.append("-DTF_LITE_STATIC_MEMORY")  # as on a microcontroller
        for file in (main, source):
            subprocess.run([compiler, *options, str(file)], check=True)

    @pytest.mark.slow
    def test_a_program_computes_what_litert_does(self, dense, tmp_path):
        """The whole way to a binary: all of it compiled, linked and run."""
        compiler = shutil.which("g++") or shutil.which("clang++")
        folders = sources()
        if compiler is None or not folders:
            pytest.skip("needs a C++ compiler and TFLITE_MICRO_SOURCE")
        net = tfc.export.to_c(dense, tmp_path / "net.cc")
        main = tmp_path / "main.cc"
        main.write_text(_MAIN)
        include = [part for folder in folders for part in ("-isystem", str(folder))]
        options = ["-std=c++17", "-fno-exceptions", "-fno-rtti", "-w", *include]
        options += ["-DTF_LITE_STATIC_MEMORY", "-ffunction-sections"]
        objects = []
        for number, file in enumerate([main, net, *library(folders[0])]):
            objects.append(str(tmp_path / f"{number}.o"))
            command = [compiler, *options, "-c", str(file), "-o", objects[-1]]
            subprocess.run(command, check=True)
        program = tmp_path / "program"
        link = [compiler, "-Wl,--gc-sections", *objects, "-o", str(program)]
        subprocess.run(link, check=True)

        reference = tfc.export._runtime.reference_interpreter(dense.read_bytes())
        given, result = (
            details[0]
            for details in (
                reference.get_input_details(),
                reference.get_output_details(),
            )
        )
        rng = np.random.default_rng(0)
        value = rng.integers(-128, 128, given["shape"]).astype(given["dtype"])
        reference.set_tensor(given["index"], value)
        reference.invoke()
        done = subprocess.run(
            [str(program)], input=value.tobytes(), capture_output=True, check=True
        )
        expected = reference.get_tensor(result["index"])
        found = np.frombuffer(done.stdout, expected.dtype).reshape(expected.shape)
        # Its kernels may round the other way than LiteRT's, by one step.
        np.testing.assert_allclose(found, expected, atol=1)

    def test_every_operator_has_its_method(self):
        # Camel case but for those that the interface spells another way.
        methods = {_c._method(kind) for kind in _c._KERNELS}
        assert len(methods) == len(_c._KERNELS)
        assert {
            "Conv2D",
            "BatchMatMul",
            "CumSum",
            "PadV2",
            "Relu6",
            "SelectV2",
        } < methods
        assert {"L2Pool2D", "UnidirectionalSequenceLSTM", "SpaceToBatchNd"} < methods

    def test_an_operator_without_a_kernel_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_c.importlib.util, "find_spec", lambda module: None)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Activation("gelu")])
        path = tmp_path / "gelu.tflite"
        tfc.export.to_tflite(model, path)
        assert [op.kind for op in operators(path.read_bytes())] == ["GELU"]
        with pytest.raises(ValueError, match=r"GELU.*no kernel"):
            tfc.export.to_c(path, tmp_path / "net.cc")
        assert not (tmp_path / "net.cc").exists()

    @needs_micro
    def test_a_file_that_does_not_run_there_is_refused(self, tmp_path):
        # Weights of 8 bits on inputs in float: there is such a kernel, but not there.
        layers = [keras.Input((8,)), keras.layers.Dense(128), keras.layers.Dense(16)]
        path = tmp_path / "dynamic.tflite"
        model = keras.Sequential(layers)
        tfc.export.to_tflite(model, path, quantization="dynamic")
        with pytest.raises(ValueError, match=r"`path`.*FULLY_CONNECTED.*prepare"):
            tfc.export.to_c(path, tmp_path / "net.cc")
        assert not list(tmp_path.glob("net*"))

    def test_the_resolver_has_just_what_is_needed(self, dense, tmp_path):
        tfc.export.to_c(dense, tmp_path / "net.cc")
        text = (tmp_path / "net_resolver.h").read_text()
        added = re.findall(r"resolver\.Add(\w+)\(\);", text)
        assert added == [
            "Conv2D",
            "DepthwiseConv2D",
            "FullyConnected",
            "MaxPool2D",
            "Reshape",
        ]
        assert "net_operators = 5;" in text

    def test_names_that_c_has_not(self, dense, tmp_path):
        with pytest.raises(ValueError, match="identifier"):
            tfc.export.to_c(dense, tmp_path / "7 nets.cc")
        with pytest.raises(ValueError, match=r"\.cc or \.cpp"):
            tfc.export.to_c(dense, tmp_path / "net.c")
