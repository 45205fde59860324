"""Run all stress tests with the numbers that the project requires; started by hand, because they take over an hour.

    python tests/stress.py              # all of them
    python tests/stress.py --quick      # a tenth of each

Each prints its figures; the exit code is 1 if one failed. stress_training.py and stress_audio.py can be run alone.
"""
import argparse
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TESTS = (("stress_training.py", "--kills", 50), ("stress_training.py", "--networks=train", "--kills", 10),
         ("stress_training.py", "--networks=train_gan", "--kills", 10), ("stress_training.py", "--memory", 2000),
         ("stress_audio.py", "--files", 500), ("stress_audio.py", "--kills", 10), ("stress_audio.py", "--memory", 1000))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of each")
    args, failed = parser.parse_args(), []
    for *flags, number in TESTS:
        words = [*flags, str(number // 10 if args.quick else number)]
        print(f"\n{' '.join(words)}", flush=True)
        if subprocess.run([sys.executable, HERE / words[0], *words[1:]]).returncode:
            failed.append(" ".join(words))
    print(f"\nfailed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
