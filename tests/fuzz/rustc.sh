#!/bin/sh
# Stands in for rustc where cargo builds the workspace's crates for fuzzing: the agent counts what it runs and compares, and has
# its targets; the program that calls them is linked with libFuzzer. All else is built as ever, and so is built once.
set -eu
case " $* " in
*" --crate-name agent "*)
    set -- "$@" --cfg fuzzing -Copt-level=2 -Ccodegen-units=16 -Cpasses=sancov-module \
        -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*" --crate-name fuzz "*)
    set -- "$@" "-Clink-arg=$POSTERN_LIBFUZZER" -Clink-arg=-l:libstdc++.so.6
    ;;
esac
exec "$@"
