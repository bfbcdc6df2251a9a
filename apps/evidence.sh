#!/bin/sh
# Carries out rows of the evidence for some minutes and packs what is small.
#
#     apps/evidence.sh DATA OUTPUT MINUTES [--row=ResNet18 --seeds=1 …]
#
# For a GPU that is there for a short while: the same line resumes at the epoch where the last one
# ended, and OUTPUT/small.tar.gz then holds the results and logs of all runs, without weights.
# Unpacked into the OUTPUT of another machine, it spares that what is finished. DATA holds
# cifar100.npz, see docs/results.md, which also pins the versions of Keras and JAX; TensorFlow is
# not needed. PYTHON names the interpreter. Exit code 75: there is more to do. Later flags are
# those of apps/reproduce.py.
set -u
if [ $# -lt 3 ]; then
    echo "error: usage: apps/evidence.sh DATA OUTPUT MINUTES [flags of reproduce.py]" >&2
    exit 2
fi
data=$1 output=$2 minutes=$3
shift 3
python=${PYTHON:-python3}
apps=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$output" && output=$(cd "$output" && pwd) || exit 2
export KERAS_BACKEND="${KERAS_BACKEND:-jax}"
# All seeds of a row are one program.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$output/compiled}"
export PYTHONPATH="${apps%/apps}${PYTHONPATH:+:$PYTHONPATH}"

seconds=$(awk -v minutes="$minutes" 'BEGIN { print int(60 * (minutes + 1)) }')
# What does not come to its end in time is ended, so that packing is never left out.
timeout -k 10 "$seconds" \
    "$python" "$apps/reproduce.py" --table=evidence --on_device --precision=mixed_bfloat16 \
    --data_dir="$data" --output="$output" --minutes="$minutes" "$@" &
child=$!
# Whoever ends this ends the training, too.
trap 'kill -TERM $child 2>/dev/null' TERM INT HUP
wait $child
code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
# 124: `timeout` has ended it.
[ $code = 124 ] && code=75
if [ -n "$(find "$output" -name results.json | head -n 1)" ]; then
    "$python" "$apps/reproduce.py" --collect --output="$output"
fi
cd "$output" || exit $code
find . \( -name results.json -o -name log.csv -o -path './tables/*' -o -name 'index.*' \) -type f |
    tar -czf .small.tar.gz -T - && mv .small.tar.gz small.tar.gz
exit $code
