#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The checkers, over everything that git tracks: clang-format, shellcheck, cppcheck, clang-tidy.
# Runs all of them, then fails if one did. Usage: scripts/lint.sh [BUILD-FOLDER]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

build=${1:-build}
failed=()
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT

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

# clang-tidy looks at a file once for each way that it is compiled, and several programs have the same one: prints the list
# of those that differ in more than their output and include folders. What criterion defines for itself is of no concern.
differently_compiled() {
  /usr/bin/python3 - "$build/compile_commands.json" <<'EOF'
import json, re, sys
commands = {}
for entry in json.load(open(sys.argv[1])):
    how = re.sub(r" (-I\S+|-M[FQ] \S+|-o \S+|-fPIC|-DBXF_STATIC_LIB=1)(?= )", "", entry["command"])
    commands.setdefault((entry["file"], how), entry)
print(json.dumps(list(commands.values())))
EOF
}

check_tidy() {
  differently_compiled >"$folder/compile_commands.json" || return 1
  # gcc's warning options mean nothing to clang-tidy: its own checks are in .clang-tidy.
  printf '%s\n' "${built_files[@]}" |
    xargs -P "$(nproc)" -n 4 clang-tidy -p "$folder" --quiet --extra-arg=-Wno-unknown-warning-option 2>&1 |
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
