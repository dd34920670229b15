# The commands that every clone has. CI calls these and nothing else; each is one script in tools/.

.PHONY: help demo test test-vm check bench header stubs wheel
.DEFAULT_GOAL := help

help: ## says what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## shows a backup, a crash, a restore and its proof on a PostgreSQL made for it
	@tools/demo.sh

test: ## installs what the tests need, then runs all of them
	@tools/test.sh

test-vm: ## runs the tests that need a real ZFS, in a guest that has it (no part of CI)
	@tools/vm/test.sh

check: ## formatting, lints, documentation, generated files, licences
	@tools/check.sh

bench: ## measures against pg_basebackup, on PostgreSQL clusters made for it
	@tools/bench.sh

header: ## writes include/barman_snap.h anew
	@tools/header.sh write

stubs: ## compares the type stubs of the Python module with the module
	@tools/stubs.sh

wheel: ## builds the Python wheel into dist/
	@tools/wheel.sh
