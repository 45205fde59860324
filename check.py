"""Say what TensorFlow sees on this machine, and what is missing.

    python check.py
"""
import argparse
import ctypes
import platform
import sys

import commands
import quiet  # noqa: F401  before TensorFlow
import keras
import tensorflow as tf


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands.add_verbose(parser)
    parser.parse_args(argv)
    build = tf.sysconfig.get_build_info()
    print(f"Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__} "
          f"({keras.backend.backend()}), {platform.machine()} {platform.system()}")
    if build.get("is_cuda_build"):
        print(f"built for CUDA {build.get('cuda_version', '?')} and cuDNN {build.get('cudnn_version', '?')}")
    else:
        print("built without CUDA")
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
        print(f"device {device.name} {' '.join(str(value) for value in details.values())}")
    if not tf.config.list_physical_devices("GPU") and build.get("is_cuda_build"):
        try:
            ctypes.CDLL("libcuda.so.1")
            print("no GPU is used though there is an NVIDIA driver: pip install -r requirements-gpu.txt brings CUDA "
                  "and cuDNN; what is missing is printed by python check.py --verbose")
        except OSError:
            print("no GPU is used: there is no NVIDIA driver (libcuda.so.1). Training runs on the CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
