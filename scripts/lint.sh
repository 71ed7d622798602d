#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The checkers, over everything that git tracks: clang-format, shellcheck, cppcheck, clang-tidy.
# Runs all of them, then fails if one did. Usage: scripts/lint.sh [BUILD-FOLDER]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

build=${1:-build}
failed=()

check() {
  local name=$1
  shift
  local start=$SECONDS
  if "$@"; then
    echo "lint: $name: clean ($((SECONDS - start)) s)"
  else
    echo "lint: $name: FAILED"
    failed+=("$name")
  fi
}

mapfile -t c_files < <(git ls-files '*.c')
mapfile -t c_and_h_files < <(git ls-files '*.c' '*.h')
mapfile -t shell_files < <(git grep -lE '^#!/bin/(ba)?sh' -- .)
# clang-tidy wants to know how a file is compiled: those that meson builds. The unit tests' macros hide
# from it what they do, and would take it most of its time.
mapfile -t built_files < <(
  for f in "${c_files[@]}"; do
    [[ $f != tests/unit/* ]] && grep -qF "/$f\"" "$build/compile_commands.json" && echo "$f"
  done)

check_tidy() {
  # gcc's warning options mean nothing to clang-tidy: its own checks are in .clang-tidy.
  printf '%s\n' "${built_files[@]}" |
    xargs -P "$(nproc)" -n 4 clang-tidy -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option 2>&1 |
    grep -vE '^[0-9]+ warnings? generated|^Suppressed|^Use -header-filter|^$'
  [ "${PIPESTATUS[1]}" = 0 ]
}

check clang-format clang-format --dry-run -Werror "${c_and_h_files[@]}"
check shellcheck shellcheck "${shell_files[@]}"
check cppcheck cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
  --suppressions-list=.ci/cppcheck-suppressions -I . -j "$(nproc)" "${c_files[@]}"
check clang-tidy check_tidy

if [ ${#failed[@]} -gt 0 ]; then
  echo "lint: failed: ${failed[*]}"
  exit 1
fi
echo "lint: all clean"
