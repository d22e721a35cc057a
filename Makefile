# Every target sets up .venv and .host first, and skips that if they are complete.
#
#   PYTHON=python3.12            the Python of .venv
#   COMFYUI_DIR=~/ComfyUI        your own ComfyUI, instead of fetching one
#   COMFYUI_VERSION=0.3.75       fetch another version into .host/ComfyUI-0.3.75 (0.3.75, 0.16.3, 0.24.1, 0.30.0)
#   PROMPT="a white disc ..."    prompt of 'make demo' (tiny_wan/world/grammar.py)
#   ARGS="-k transition"         further arguments for pytest, or for ComfyUI in 'make serve'
#   PORT=8188                    port of 'make serve'

PORT ?= 8188
ARGS ?=
RUN := .venv/bin/python -m

ifdef COMFYUI_VERSION
export COMFYUI_VERSION
export COMFYUI_DIR := $(CURDIR)/.host/ComfyUI$(filter-out -0.30.0,-$(COMFYUI_VERSION))
endif

OLDEST := 0.3.75

.PHONY: help set-up demo test test-oldest serve lint pack clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile
	@sed -n 's/^#  / /p' Makefile

set-up: ## .venv, and ComfyUI in .host
	@python=$$(sh tools/find_python.sh) && "$$python" tools/set_up.py

demo: set-up ## one prompt sampled in five ways on the CPU, into output/demo/
	@$(RUN) demo.run $(if $(PROMPT),--prompt "$(PROMPT)")

test: set-up ## all tests
	@$(RUN) pytest -n auto $(ARGS)

test-oldest: set-up ## nodes, samplers and graphs against the oldest ComfyUI that can be fetched
	@.venv/bin/python tools/set_up.py $(OLDEST)
	@COMFYUI_DIR="$(CURDIR)/.host/ComfyUI-$(OLDEST)" $(RUN) pytest -n auto -m "not one_version" tests/nodes tests/samplers tests/tools/test_workflows.py $(ARGS)

serve: set-up ## ComfyUI in the browser, with the pack and tiny models
	@$(RUN) demo.serve --port $(PORT) $(ARGS)

lint: set-up ## ruff and pyright
	@$(RUN) ruff check .
	@$(RUN) pyright

pack: set-up ## the registry's archive, into output/, scanned
	@$(RUN) tools.pack

clean: ## remove .venv, .host and caches; output/ stays
	rm -rf .venv .host .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
