# make demo   train on the bundled corpus, paired and adversarial, convert held-out sentences, measure, write pages
# make pair   the same for your own: make pair SOURCE=DIR TARGET=DIR [OTHERS="DIR DIR"] [HELDOUT=FILE] [UNPAIRED=1]
#             [FROM=pretrained/bdl, or FROM= for networks of your own]
# make voice  a voice from recordings of it alone, for anybody to speak with: make voice TARGET=DIR
# make listen  make and open the page with samples of all kinds of use, docs/index.html
# make test   run the tests, but for those that take minutes
# make test-slow  run those: kills, several processes, compiled steps on two devices
# make check  say what TensorFlow sees on this machine
# make lock   renew the pinned requirements (needs uv)
# make audit  look the pinned requirements up among the known vulnerabilities (needs pip-audit)
# make help   print these lines
#
# A Python of your choice: make demo PYTHON=python3.11

SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --only-binary :all:
# Byte code, by all cores; pip would use one. A file of some package that is no Python of today does no harm
COMPILE := .venv/bin/python -m compileall -q -j 0 .venv/lib || true

.PHONY: demo pair voice listen test test-slow check lock audit help
.DEFAULT_GOAL := help

demo: .venv/installed
	.venv/bin/python prepro.py
	.venv/bin/python train.py
	.venv/bin/python eval.py
	.venv/bin/python train_gan.py
	.venv/bin/python eval_gan.py

# OTHERS are further speakers who say the same sentences: they teach to listen, the voice is TARGET's alone
# Two folders of one name, as bdl/wav and slt/wav, are told apart by what they are in
last = $(notdir $(abspath $(1)))
parent = $(notdir $(patsubst %/,%,$(dir $(abspath $(1)))))_$(call last,$(1))
called = $(if $(filter $(call last,$(SOURCE)),$(call last,$(TARGET))),$(call parent,$(1)),$(call last,$(1)))
NAME = $(call called,$(SOURCE))-$(call called,$(TARGET))
FROM = pretrained/slt
pair: .venv/installed
	@test -n "$(SOURCE)" -a -n "$(TARGET)" || { echo "usage: make pair SOURCE=DIR TARGET=DIR"; exit 1; }
	@test "$(words $(SOURCE) $(TARGET))" = 2 || { echo "make takes no folders with spaces: see the README for the commands"; exit 1; }
	.venv/bin/python prepro.py $(SOURCE:%=--source %) $(OTHERS:%=--source %) --target $(TARGET) \
		$(HELDOUT:%=--heldout %) $(if $(UNPAIRED),--unpaired) --data data/$(NAME)
	.venv/bin/python train.py --data data/$(NAME) $(FROM:%=--init-from %) --logdir logdir/$(NAME)
	.venv/bin/python train_gan.py --init-from logdir/$(NAME) --logdir logdir/$(NAME)-gan
	.venv/bin/python eval.py --logdir logdir/$(NAME)-gan --source $(SOURCE)

ALONE = voice-$(call last,$(TARGET))
voice: .venv/installed
	@test "$(words $(TARGET))" = 1 || { echo "usage: make voice TARGET=DIR, a folder without spaces in its name"; exit 1; }
	.venv/bin/python prepro.py --target $(TARGET) --data data/$(ALONE)
	.venv/bin/python train.py --data data/$(ALONE) --logdir logdir/$(ALONE)
	.venv/bin/python train_gan.py --init-from logdir/$(ALONE) --logdir logdir/$(ALONE)-gan

listen: .venv/installed
	.venv/bin/python -m tools.gallery --open

test: .venv/installed-test
	.venv/bin/python -m ruff check .
	.venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: .venv/installed-test
	.venv/bin/python -m pytest -n auto -m slow

check: .venv/installed
	.venv/bin/python -m backend.devices

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.10 to 3.13 found; install one, or: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python requirements/cpu.txt
	$(PIP) -r requirements/cpu.txt
	$(COMPILE)
	touch $@

.venv/installed-test: .venv/bin/python requirements/test.txt
	$(PIP) -r requirements/test.txt
	$(COMPILE)
	touch $@ .venv/installed

lock:
	for name in cpu gpu test; do \
		uv pip compile --quiet --universal --generate-hashes --python-version 3.10 --custom-compile-command "make lock" \
			`test $$name = cpu && echo requirements.txt || echo requirements/$$name.in` -o requirements/$$name.txt || exit 1; done

audit:
	for file in requirements/*.txt; do pip-audit --require-hashes --disable-pip --requirement $$file || exit 1; done

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^A Python/,$$d'
